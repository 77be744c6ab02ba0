"""Least squares with a ridge, over as many equations as there are: of many nothing but sums is kept."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

Equations = tuple[float, Tensor, Tensor]  # how much they count, what is given [rows, in], what is wanted [rows, out]


def in_double(value: Tensor) -> Tensor:
    """In float64, which Apple's graphics processors do not have: then on the CPU."""
    return (value.cpu() if value.device.type == "mps" else value).double()


@dataclass(frozen=True)
class Solved:
    weight: Tensor  # [out, in], float64
    missed: float  # |given Wᵀ - wanted|² / |wanted|²


def solved(parts: Iterable[Equations], start: Tensor, ridge: float) -> Solved:
    """The W with the least  sum of share |given Wᵀ - wanted|² + r |W - start|².

    r is `ridge` times the mean of the diagonal of the given rows' Gram matrix: few rows leave W near `start`.
    """
    start = in_double(start)
    gram = start.new_zeros(start.shape[1], start.shape[1])
    cross = start.new_zeros(start.shape[1], start.shape[0])
    squares = 0.0
    for share, given, wanted in parts:
        # in float64: products in single precision hang on where in memory a tensor lies, and a resumed run would too
        a, b = in_double(given), in_double(wanted)
        gram += share * (a.T @ a)
        cross += share * (a.T @ b)
        squares += share * float(b.square().sum())
    pull = max(float(ridge * gram.diagonal().mean()), torch.finfo(gram.dtype).tiny)
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    weight: Tensor = torch.linalg.solve(gram + pull * eye, cross + pull * start.T).T
    missed = float((weight @ gram * weight).sum() - 2 * (weight.T * cross).sum()) + squares
    return Solved(weight, max(missed, 0.0) / max(squares, 1e-12))


def solved_from_few(given: Tensor, wanted: Tensor, start: Tensor, ridge: float) -> Tensor:
    """The same W from fewer rows than it has columns, by equations between the rows."""
    start, a = in_double(start), in_double(given)
    if not a.any():  # so small a pull as there is then would divide what is lacking to infinity
        return start
    pull = max(ridge * float(a.square().sum()) / a.shape[1], torch.finfo(a.dtype).tiny)
    among = a @ a.T
    among.diagonal().add_(pull)
    lacking = in_double(wanted) - a @ start.T
    found: Tensor = start + torch.linalg.solve(among, lacking).T @ a
    return found
