"""Ridge least squares, accumulated over batches of equations."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

Equations = tuple[float, Tensor, Tensor]  # (weight of the batch, inputs [rows, in], targets [rows, out])


def to_float64(value: Tensor) -> Tensor:
    """Convert to float64, on the CPU for MPS tensors: MPS has no float64."""
    return (value.cpu() if value.device.type == "mps" else value).double()


@dataclass(frozen=True)
class Solution:
    """A solved weight, and the error that remains."""

    weight: Tensor  # [out, in], float64
    error: float  # |inputs Wᵀ - targets|² / |targets|²


def solve(batches: Iterable[Equations], start: Tensor, ridge: float) -> Solution:
    """Find the W that minimises  sum of share |inputs Wᵀ - targets|² + r |W - start|².

    r is `ridge` times the mean of the diagonal of the inputs' Gram matrix: few rows leave W near `start`.
    """
    start = to_float64(start)
    gram = start.new_zeros(start.shape[1], start.shape[1])
    cross = start.new_zeros(start.shape[1], start.shape[0])
    squares = 0.0
    for share, inputs, targets in batches:
        # in float64: float32 products depend on memory alignment, and a resumed run would differ
        a, b = to_float64(inputs), to_float64(targets)
        gram += share * (a.T @ a)
        cross += share * (a.T @ b)
        squares += share * float(b.square().sum())
    regularisation = max(float(ridge * gram.diagonal().mean()), torch.finfo(gram.dtype).tiny)
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    weight: Tensor = torch.linalg.solve(gram + regularisation * eye, cross + regularisation * start.T).T
    error = float((weight @ gram * weight).sum() - 2 * (weight.T * cross).sum()) + squares
    return Solution(weight, max(error, 0.0) / max(squares, 1e-12))


def solve_dual(inputs: Tensor, targets: Tensor, start: Tensor, ridge: float) -> Tensor:
    """Find the same W when there are fewer rows than columns, by the dual equations."""
    start, a = to_float64(start), to_float64(inputs)
    if not a.any():  # a tiny regularisation would overflow the solution
        return start
    regularisation = max(ridge * float(a.square().sum()) / a.shape[1], torch.finfo(a.dtype).tiny)
    gram = a @ a.T
    gram.diagonal().add_(regularisation)
    residual = to_float64(targets) - a @ start.T
    weight: Tensor = start + torch.linalg.solve(gram, residual).T @ a
    return weight
