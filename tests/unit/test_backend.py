"""Frozen copies, BatchNorm modes and memory formats change no answer."""

import pytest
import timm
import torch
from torch import Tensor, nn

from graftcli.graft.backend.batchnorm import batchnorms, recalibrate, training_mode
from graftcli.graft.backend.frozen import frozen
from graftcli.graft.backend.memory_format import set_channels_last_pieces
from graftcli.graft.surgery.seams import seams
from graftcli.graft.training.pieces import Pieces, pieces
from graftcli.models.cuts import plan as plans
from graftcli.models.cuts.automatic_cuts import cuts
from graftcli.models.tracing.split import split
from graftcli.models.tracing.trace import trace
from tests.engine import Stages, network, plan, recipe
from tests.nets import randomise


@torch.no_grad()
def test_folding_batchnorm_changes_no_answer_and_not_the_network() -> None:
    network = randomise(timm.create_model("resnet10t", num_classes=5)).eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    traced = trace(network, torch.randn(2, 3, 64, 64))
    value = same = torch.randn(2, 3, 64, 64)
    for piece in split(traced, cuts(traced)):
        copy = frozen(piece)
        value, same = piece(value), copy(same)
        assert torch.allclose(value, same, rtol=1e-4, atol=1e-4 * float(value.abs().max()))
        assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in copy.modules())
        assert not any(p.requires_grad for p in copy.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_gradients_still_reach_the_input() -> None:
    network = randomise(timm.create_model("resnet10t", num_classes=5)).eval()
    traced = trace(network, torch.randn(2, 3, 64, 64))
    last = frozen(split(traced, cuts(traced))[-1])
    features = torch.randn(2, *traced.shapes[cuts(traced)[-1].node][1:], requires_grad=True)
    last(features).sum().backward()
    assert features.grad is not None and bool((features.grad != 0).any())


def unit() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5)).eval()


@pytest.mark.parametrize("policy", ["frozen", "train", "recalibrate"])
@pytest.mark.parametrize("dropout", [False, True])
def test_train_and_eval_modes_inside_and_outside_of_the_trained_block(policy: str, dropout: bool) -> None:
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


class Viewing(Stages):
    """A head that reads the maps by `view`, as many networks written by hand do."""

    def __init__(self) -> None:
        super().__init__((6, 8, 16), 2)
        self.head = nn.Linear(16 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.stages(x)
        return self.head(maps.view(maps.shape[0], -1))  # type: ignore[no-any-return]


def convolutions(found: Pieces) -> list[nn.Conv2d]:
    every = (*found.teacher, *found.student)
    return [m for piece in every for m in piece.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]


def test_convolutions_are_channels_last_and_answer_as_before() -> None:
    made = plan()
    images = torch.randn(2, 3, 16, 16)
    before = made.student.network.module(images)
    found = pieces(made, seams(made))
    set_channels_last_pieces(found, images)
    weights = [conv.weight for conv in convolutions(found)]
    assert weights and all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)
    assert torch.allclose(made.student.network.module(images), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", ["teacher", "student"])
def test_a_network_that_views_its_maps_keeps_the_plain_layout(side: str) -> None:
    other, viewing = network(Stages((8, 12, 16), 3), "other"), network(randomise(Viewing()), "viewing")
    made = plans.make(*((viewing, other) if side == "teacher" else (other, viewing)))
    found = pieces(made, seams(made))
    set_channels_last_pieces(found, torch.randn(2, 3, 16, 16))
    assert all(conv.weight.is_contiguous() for conv in convolutions(found))
    made.student.network.module(torch.randn(2, 3, 16, 16))
