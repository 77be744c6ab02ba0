"""Rates of blocks and adapters, and how they go over the steps."""

import pytest
import torch
from torch import nn

from graftcli.graft.surgery.seams import Adapter
from graftcli.graft.training.muon import Muon
from graftcli.graft.training.optim import factor_at, optimiser_of, rates_of
from graftcli.graft.training.tasks import Task
from graftcli.recipe import Stage
from tests.engine import recipe


def stage(**changes: object) -> Stage:
    return recipe().stages[0].model_copy(update=changes)


def test_adapters_have_a_rate_of_their_own_and_rates_follow_the_batch() -> None:
    moving = nn.ModuleList([Adapter(3, 4), nn.Conv2d(4, 4, 1)])
    task = Task("graft-1", stage(lr=(1e-3, 2e-3), adapter_lr=(5e-2,), batch=16, lr_scale_with_batch=64), 1, (2,))
    rates = rates_of(task, moving, 100)
    assert rates["blocks"].value == pytest.approx(2e-3 / 4)
    assert rates["adapters"].value == pytest.approx(5e-2 / 4)
    assert [p.shape for p in rates["adapters"].parameters] == [(4, 3)]
    assert {id(p) for p in rates["blocks"].parameters} == {id(p) for p in moving[1].parameters()}


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("muon", Muon)])
def test_the_optimiser_is_the_one_of_the_recipe(name: str, kind: type[torch.optim.Optimizer]) -> None:
    layer = nn.Linear(2, 2).requires_grad_(False)
    task = Task("graft-1", stage(optimizer=name, momentum=0.8, weight_decay=1e-4, lr=(0.5,)), 0, (1,))
    optimiser = optimiser_of(task.stage, rates_of(task, layer, 10))
    assert type(optimiser) is kind
    group = optimiser.param_groups[0]
    assert (group["momentum"], group["weight_decay"], group["lr"]) == (0.8, 1e-4, 0.5)
    assert all(p.requires_grad for p in layer.parameters())


@pytest.mark.parametrize(
    ("changes", "step", "expected"),
    [
        ({"schedule": "constant"}, 99, 1.0),
        ({"schedule": "cosine"}, 0, 1.0),
        ({"schedule": "cosine"}, 50, 0.5),
        ({"schedule": "step", "step_at": (0.4, 0.8)}, 39, 1.0),
        ({"schedule": "step", "step_at": (0.4, 0.8)}, 40, 0.1),
        ({"schedule": "step", "step_at": (0.4, 0.8)}, 80, 0.01),
        ({"schedule": "cosine", "warmup": 0.1}, 4, 5 / 11),
        ({"schedule": "cosine", "warmup": 0.1}, 10, 1.0),
        ({"schedule": "cosine", "warmup": 0.1}, 55, 0.5),
    ],
)
def test_schedules(changes: dict[str, object], step: int, expected: float) -> None:
    assert factor_at(stage(**changes), step, 100) == pytest.approx(expected)
