"""Optimisers, learning rates and their schedules; Muon."""

import pytest
import torch
from torch import nn

from graftcli.graft.surgery.seams import Adapter
from graftcli.graft.training.muon import Muon, is_matrix, orthogonal
from graftcli.graft.training.optim import factor_at, optimiser_of, rates_of
from graftcli.graft.training.tasks import Task
from graftcli.recipe import Stage
from tests.engine import recipe


@pytest.mark.parametrize("shape", [(16, 144), (64, 27), (30, 30)])
def test_all_directions_of_a_matrix_become_about_equally_long(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    values = torch.logspace(0, -2, min(shape))
    (found,) = orthogonal((left @ values.diag() @ right)[None])
    inner = left.T @ found @ right.T
    assert inner.diagonal().min() > 0.67 and inner.diagonal().max() < 1.21
    assert (inner - inner.diagonal().diag()).abs().max() < 1e-2  # no direction has become another


@pytest.mark.parametrize("size", [0.0, 1e-36, 1e-25, 1e-14])
def test_tiny_gradients_are_not_amplified(size: float) -> None:
    torch.manual_seed(0)
    assert orthogonal(size * torch.randn(1, 3, 5)).abs().max() < 0.05


def test_what_has_no_gradient_any_more_comes_to_rest() -> None:
    weight = nn.Parameter(torch.zeros(4, 6))
    muon = Muon([{"params": [weight], "lr": 1e-2}])
    weight.grad = torch.ones(4, 6)
    muon.step()
    weight.grad = torch.zeros(4, 6)
    for _ in range(500):
        muon.step()
    before = weight.detach().clone()
    for _ in range(500):
        muon.step()
    assert weight.isfinite().all() and (weight - before).abs().max() < 1e-6


def test_filters_over_several_channels_are_matrices() -> None:
    assert is_matrix(nn.Conv2d(3, 8, 3).weight) and is_matrix(nn.Linear(4, 2).weight)
    alone = nn.Conv2d(8, 8, 3, groups=8).weight, nn.Conv2d(1, 8, 3).weight, nn.Linear(9, 1).weight
    assert not any(map(is_matrix, (*alone, nn.BatchNorm2d(4).weight, torch.zeros(1, 197, 192))))


def test_a_step_is_as_long_as_one_of_adam_for_wide_and_for_tall_matrices() -> None:
    torch.manual_seed(0)
    for shape in ((16, 16, 3, 3), (256, 16)):
        weight = nn.Parameter(torch.zeros(shape))
        weight.grad = torch.randn(shape)
        Muon([{"params": [weight], "lr": 1e-2}]).step()
        assert weight.detach().square().mean().sqrt() == pytest.approx(0.2 * 1e-2, rel=0.3)


def test_parameters_that_are_no_matrices_are_updated_by_adam() -> None:
    teacher, student = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(5))
    muon = Muon([{"params": [teacher], "lr": 1e-2}], weight_decay=0.1)
    adam = torch.optim.AdamW([student], lr=1e-2, weight_decay=0.1)
    for step in range(6):
        for parameter, optimiser in ((teacher, muon), (student, adam)):
            parameter.grad = torch.tensor([1.0, -2.0, 0.0, 1e-3, 50.0]) / (step + 1)
            optimiser.step()
    torch.testing.assert_close(teacher, student, rtol=1e-6, atol=1e-7)


def test_momentum_and_weight_decay_are_those_of_the_formula() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(4, 6))
    muon = Muon([{"params": [weight], "lr": 0.1}], momentum=0.8, weight_decay=0.5)
    expected, average = weight.detach().clone(), torch.zeros(4, 6)
    for _ in range(3):
        weight.grad = torch.randn(4, 6)
        average = 0.8 * average + 0.2 * weight.grad
        ahead = 0.2 * weight.grad + 0.8 * average
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * 0.2 * 6**0.5 * orthogonal(ahead[None])[0]
        muon.step()
    torch.testing.assert_close(weight.detach(), expected)


@pytest.mark.parametrize("shape", [(4, 2, 3, 3), (300, 256)])
def test_matrices_of_one_shape_move_as_each_does_alone(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    together = [nn.Parameter(torch.randn(shape)) for _ in range(3)]
    alone = [nn.Parameter(weight.detach().clone()) for weight in together]
    optimisers = [Muon([{"params": each, "lr": 0.1}]) for each in (together, *([one] for one in alone))]
    for _ in range(3):
        for teacher, student in zip(together, alone, strict=True):
            teacher.grad = torch.randn(shape)
            student.grad = teacher.grad.clone()
        for optimiser in optimisers:
            optimiser.step()
    for teacher, student in zip(together, alone, strict=True):
        torch.testing.assert_close(teacher, student, rtol=1e-5, atol=1e-6)


def test_muon_learns_a_matrix() -> None:
    torch.manual_seed(0)
    inputs, layer = torch.randn(512, 32), nn.Linear(32, 16)
    wanted = inputs @ torch.randn(32, 16) + 3
    muon = Muon([{"params": list(layer.parameters()), "lr": 0.1}])
    for step in range(200):
        muon.param_groups[0]["lr"] = 0.1 * (1 - step / 200)
        muon.zero_grad()
        loss = (layer(inputs) - wanted).square().mean() / wanted.square().mean()
        loss.backward()
        muon.step()
    assert loss < 1e-3


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
