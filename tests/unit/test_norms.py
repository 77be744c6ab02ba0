"""BatchNorm as a stage says, and as it was when the stage is over."""

import pytest
import torch
from torch import nn

from graftcli.graft.backend.batchnorm import batchnorms, recalibrate, training_mode
from tests.engine import recipe


def unit() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5)).eval()


@pytest.mark.parametrize("policy", ["frozen", "train", "recalibrate"])
@pytest.mark.parametrize("dropout", [False, True])
def test_modes_within_and_outside(policy: str, dropout: bool) -> None:
    moving = unit()
    stage = recipe().stages[0].model_copy(update={"batchnorm": policy, "dropout": dropout})
    with training_mode(stage, moving):
        assert moving[1].training == (policy == "train")
        assert moving[2].training == dropout
    assert not any(module.training for module in moving.modules())


def test_recalibrated_statistics_are_plain_averages() -> None:
    moving = unit()
    batches = torch.randn(3, 8, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    recalibrate(moving, 3, lambda number: moving(batches[number]))
    given = torch.stack([moving[0](batch) for batch in batches])
    norm = batchnorms(moving)[0]
    assert torch.allclose(norm.running_mean, given.mean((0, 1, 3, 4)), atol=1e-6)  # type: ignore[arg-type]
    assert torch.allclose(norm.running_var, given.var((1, 3, 4)).mean(0), rtol=0.02)  # type: ignore[arg-type]
    assert norm.momentum == 0.1 and not norm.training
