"""Least squares: the solution of the sums, and where the ridge pulls it."""

import numpy as np
import pytest
import torch

from graftcli.models.least_squares import solve, solve_dual


def rows(seed: int = 0, count: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 5, generator=generator), torch.randn(count, 3, generator=generator)


def test_without_a_ridge_it_is_numpys_solution() -> None:
    given, wanted = rows()
    found = solve([(1.0, given, wanted)], torch.zeros(3, 5), 1e-15)
    expected, residuals, *_ = np.linalg.lstsq(given.double().numpy(), wanted.double().numpy(), rcond=None)
    assert np.allclose(found.weight.numpy(), expected.T, atol=1e-10)
    assert found.error == pytest.approx(residuals.sum() / float(wanted.double().square().sum()), rel=1e-9)


def test_partial_sums_are_weighted_by_their_shares() -> None:
    """A part that counts 0.25 is the same as its rows halved."""
    given, wanted = rows()
    more, targets = rows(1)
    parts = solve([(1.0, given, wanted), (0.25, more, targets)], torch.zeros(3, 5), 1e-15)
    whole = solve([(1.0, torch.cat([given, more / 2]), torch.cat([wanted, targets / 2]))], torch.zeros(3, 5), 1e-15)
    assert torch.allclose(parts.weight, whole.weight, atol=1e-12)


def test_with_few_rows_the_solution_stays_near_the_start() -> None:
    """One row says something of one direction alone; in all others the start stays."""
    start = torch.eye(3, 5)
    given, wanted = torch.tensor([[1.0, 0, 0, 0, 0]]), torch.tensor([[5.0, 6, 7]])
    found = solve([(1.0, given, wanted)], start, 1e-3).weight
    assert torch.equal(found[:, 1:].float(), start[:, 1:])
    assert torch.allclose(found[:, 0].float(), wanted[0], rtol=1e-3)


def test_rows_of_zeros_keep_the_start() -> None:
    found = solve([(1.0, torch.zeros(4, 5), torch.zeros(4, 3))], torch.eye(3, 5), 1e-3)
    assert torch.equal(found.weight, torch.eye(3, 5).double()) and found.error == 0
    few = solve_dual(torch.zeros(4, 5), torch.full((4, 3), 9.0), torch.eye(3, 5), 1e-3)
    assert torch.equal(few, torch.eye(3, 5).double())
