"""Losses against the papers' formulas, on numbers small enough to check by hand."""

import pytest
import torch

from graftcli.graft.training.losses import norm_l2, relative_mse, softened_kl


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
    assert relative_mse(wanted, wanted).item() == 0
    assert relative_mse(torch.zeros_like(wanted), wanted).item() == pytest.approx(1)


def test_kl_is_scaled_by_the_squared_temperature() -> None:
    given, wanted = torch.tensor([[1.0, 2.0, 0.5]]), torch.tensor([[0.2, -1.0, 3.0]])
    p, q = torch.softmax(wanted / 4, 1), torch.softmax(given / 4, 1)
    by_hand = 16 * float((p * (p / q).log()).sum())
    assert softened_kl(given, wanted, 4.0).item() == pytest.approx(by_hand, rel=1e-5)
    assert softened_kl(wanted, wanted, 4.0).item() == pytest.approx(0, abs=1e-6)
