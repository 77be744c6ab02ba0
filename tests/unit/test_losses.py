"""Losses against the papers' formulas, on numbers small enough to check by hand."""

import pytest
import torch
from pydantic import ValidationError

from graftcli.losses import LOSSES, norm_l2, softened_kl
from graftcli.recipe import Stage, Target
from graftcli.recipe.reference import json_schema, markdown


def test_normalised_logits_in_value_and_gradient() -> None:
    given = torch.tensor([[3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    wanted = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    error = norm_l2(given, wanted)
    assert error.item() == pytest.approx((0.6 - 1) ** 2 + 0.8**2)
    error.backward()
    # |u - t|^2 = 2 - 2 u.t with u = s / |s|, so its gradient is -2 (t - (u.t) u) / |s|
    assert given.grad is not None
    assert given.grad[0].tolist() == pytest.approx([-2 * (1 - 0.6 * 0.6) / 5, 2 * 0.6 * 0.8 / 5])


def test_the_length_of_the_logits_does_not_matter() -> None:
    a, b = torch.randn(2, 4, 10, generator=torch.Generator().manual_seed(0)).unbind()
    assert norm_l2(3 * a, 0.1 * b).item() == pytest.approx(norm_l2(a, b).item(), rel=1e-5)


def test_relative_mse_is_zero_for_the_same_and_one_for_nothing() -> None:
    wanted = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    assert LOSSES["mse"].value(wanted, wanted).item() == 0
    assert LOSSES["mse"].value(torch.zeros_like(wanted), wanted).item() == pytest.approx(1)


def test_kl_is_scaled_by_the_squared_temperature() -> None:
    given, wanted = torch.tensor([[1.0, 2.0, 0.5]]), torch.tensor([[0.2, -1.0, 3.0]])
    p, q = torch.softmax(wanted / 4, 1), torch.softmax(given / 4, 1)
    by_hand = 16 * float((p * (p / q).log()).sum())
    assert softened_kl(given, wanted, 4.0).item() == pytest.approx(by_hand, rel=1e-5)
    assert softened_kl(wanted, wanted, 4.0).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_handled_wherever_recipes_use_it(name: str) -> None:
    """A recipe takes it or refuses it with a reason; it is a finite number, 0 for equal outputs, and has a gradient."""
    loss, own = LOSSES[name], {"at": "logits", "loss": name}
    target = Target.model_validate(own)
    assert target.temperature == loss.temperature
    teacher = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    student = (teacher + 0.1).mul(1.5).requires_grad_()
    value = loss.compute(student, teacher, target.temperature)
    value.backward()
    assert value.ndim == 0 and 0 < float(value.detach()) < float("inf")
    assert student.grad is not None and bool(student.grad.isfinite().all()) and bool(student.grad.any())
    assert float(loss.compute(teacher, teacher, target.temperature)) == pytest.approx(0, abs=1e-6)
    assert f"`{name}`" in markdown() and name in json_schema()
    if loss.temperature is None:
        with pytest.raises(ValidationError, match="has a temperature: remove it"):
            Target.model_validate({**own, "temperature": 2.0})
    if loss.is_of_logits:
        with pytest.raises(ValidationError, match="needs logits"):
            Target.model_validate({**own, "at": "features"})
    stage = {"name": "s", "train": "layers", "targets": [{"at": "output", "loss": name}], "steps": 1, "lr": 1e-3}
    if loss.is_of_layers:
        assert Stage.model_validate(stage).targets[0].loss == name
    else:
        with pytest.raises(ValidationError, match=r"exactly one target|needs logits"):
            Stage.model_validate(stage)
