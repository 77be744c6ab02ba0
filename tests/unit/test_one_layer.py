"""One layer against the papers' formulas, on tensors small enough to check by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from graftcli.graft.initialize.adapters import rows
from graftcli.graft.layerwise.layer_pairs import LayerPair, folded
from graftcli.graft.layerwise.one_layer import LayerInputs, LayerTrainer, solve_layer
from graftcli.graft.training.tasks import Task
from graftcli.recipe import Stage
from tests.engine import MemoryUnit, context, recipe
from tests.layer_pairs import ROW, layer, seen


def stage(**changes: object) -> Stage:
    defaults = {
        "name": "layer",
        "train": "layers",
        "targets": [{"at": "output", "loss": "mse"}],
        "steps": 2,
        "batch": 4,
    }
    return recipe(stages=[{**defaults, **changes}]).stages[0]


def mean_square(value: Tensor) -> float:
    return float(value.square().mean())


def test_fskd_is_numpys_least_squares_of_what_the_layer_gives() -> None:
    made, views = layer(), seen()
    with torch.no_grad():
        given = torch.cat([rows(made.run(x), 1) for x in views.student])
        wanted = torch.cat([rows(made.target(x), 1) for x in views.teacher])
        before, _ = folded(made)
    solve_layer(made, views, stage(optimizer="least-squares", input="student", ridge=1e-15))
    expected = np.linalg.lstsq(given.numpy(), wanted.numpy(), rcond=None)[0].T
    assert np.allclose(folded(made)[0].numpy(), np.tensordot(expected, before.numpy(), 1), atol=1e-6)
    with torch.no_grad():
        after = torch.cat([rows(made.run(x), 1) for x in views.student])
    assert np.allclose(after.numpy(), given.numpy() @ expected.T, atol=1e-6)


def test_a_layer_without_error_is_not_changed() -> None:
    """The student's features are the teacher's, and the layer is whole: Q is the identity, with any ridge."""
    made = layer(norm=False)
    whole = torch.arange(4), torch.arange(5)
    same = LayerPair("conv", "conv", "conv", (), made.teacher, None, made.teacher, *whole)
    before = made.teacher.weight.detach().clone()
    for way in ("outputs", "inputs"):
        share = solve_layer(
            same, LayerInputs(seen().teacher, seen().teacher), stage(optimizer="least-squares", solve=way)
        )
        assert share < 1e-12
        assert torch.allclose(made.teacher.weight, before, rtol=0, atol=1e-9)


def test_grail_reconstructs_a_channel_that_the_others_determine() -> None:
    """The channel that went is a sum of two that stayed: nothing is lost."""
    made, views = layer(), seen()
    for x in views.teacher:
        x[:, 2] = 2 * x[:, 0] - x[:, 4]
    share = solve_layer(made, views, stage(optimizer="least-squares", solve="inputs", ridge=1e-12))
    assert share < 1e-9
    with torch.no_grad():
        for x in views.teacher:
            assert torch.allclose(made.run(made.select_inputs(x)), made.target(x), atol=1e-4)


@pytest.mark.parametrize("mu", [0.0, 0.6, 1.0])
def test_cross_distillation_is_correction_and_imitation(mu: float, tmp_path: Path) -> None:
    """mu |W_s(x_t) - W_t(x_t)|² + (1 - mu) |W_s(x_s) - W_t(x_s)|², each over its elements, all over one number."""
    made, views = layer(norm=False), seen()
    with torch.no_grad():
        made.last.weight.add_(0.1)
    wanted = stage(input="mix", mu=mu, lr=1e-3)
    training = LayerTrainer(Task("layer-1", wanted, 0, (1,)), made, views, context(tmp_path), MemoryUnit())
    index = training.order.at(0)
    x_t, x_s = torch.cat(list(views.teacher))[index], torch.cat(list(views.student))[index]
    with torch.no_grad():
        correction = made.last(x_t[:, ROW[1]]) - made.teacher(x_t)[:, ROW[0]]
        zeros = torch.zeros_like(x_t)
        zeros[:, ROW[1]] = x_s
        imitation = made.last(x_s) - made.teacher(zeros)[:, ROW[0]]
        scale = mean_square(torch.cat([made.target(x) for x in views.teacher]))
    expected = mu * mean_square(correction) + (1 - mu) * mean_square(imitation)
    assert float(training.compute_loss().detach()) == pytest.approx(expected / scale, rel=1e-5)
