"""Muon (Jordan et al., 2024): matrices move by their momentum with all of its directions made equally long.

What a matrix has to learn lies also in directions whose gradients are small, and these move as fast as the others.
Everything that is no matrix moves as with AdamW. What it gave here: recipes/results/ablation.md.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

_BETAS = (0.9, 0.999)  # of Adam, for what is no matrix
_SMALL = 1e-8  # of gradients, as Adam's: smaller ones move nothing
# x -> ax + bx^3 + cx^5, five times: brings singular values from 0 to 1 near 1 (Jordan's coefficients)
_A, _B, _C, _TIMES = 3.4445, -4.7750, 2.0315, 5
_FEW = 2**16  # numbers of a matrix that is small
_AS_ADAM = 0.2  # the usual size of a number in a step of Adam, in rates: so one rate serves both (Liu et al., 2025)


class Muon(torch.optim.Optimizer):
    """`weight_decay` is AdamW's. Filters are matrices with a row for each channel that they give."""

    def __init__(self, groups: Iterable[dict[str, Any]], momentum: float = 0.9, weight_decay: float = 0.0) -> None:
        super().__init__(groups, {"momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no stage computes a gradient twice
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            gradients = {one: one.grad for one in group["params"] if one.grad is not None}
            for parameter, gradient in gradients.items():
                parameter.mul_(1 - rate * group["weight_decay"])
                if not is_matrix(parameter):
                    parameter.sub_(_scaled(self.state[parameter], gradient), alpha=rate)
            for alike in _alike(filter(is_matrix, gradients)):
                ahead = [_ahead(self.state[one], gradients[one], momentum).flatten(1) for one in alike]
                turned = orthogonal(torch.stack(ahead))
                size = _AS_ADAM * math.sqrt(max(turned.shape[1:]))
                for parameter, move in zip(alike, turned, strict=True):
                    parameter.sub_(move.reshape(parameter.shape), alpha=rate * size)


def _alike(matrices: Iterable[Tensor]) -> Iterable[list[Tensor]]:
    """Small matrices of one shape together: of these the calls take longer than the numbers in them."""
    found: dict[object, list[Tensor]] = {}
    for matrix in matrices:
        found.setdefault(matrix.shape if matrix.numel() <= _FEW else id(matrix), []).append(matrix)
    return found.values()


def is_matrix(parameter: Tensor) -> bool:
    """Whether it has rows and columns: weights of linear layers, of 2d convolutions over several channels, tables.

    Of a grouped convolution the groups lie below one another in one matrix.
    """
    return parameter.ndim in (2, 4) and min(parameter.shape[:2]) > 1


def _ahead(state: dict[str, Any], gradient: Tensor, momentum: float) -> Tensor:
    """The momentum with a look ahead, as Nesterov's."""
    if not state:
        state["average"] = torch.zeros_like(gradient)
    state["average"].lerp_(gradient, 1 - momentum)
    found: Tensor = gradient.lerp(state["average"], momentum)
    return found


def _scaled(state: dict[str, Any], gradient: Tensor) -> Tensor:
    if not state:
        state.update(step=torch.zeros(()), average=torch.zeros_like(gradient), square=torch.zeros_like(gradient))
    state["step"] += 1
    state["average"].lerp_(gradient, 1 - _BETAS[0])
    state["square"].lerp_(gradient.square(), 1 - _BETAS[1])
    first, second = (1 - beta ** float(state["step"]) for beta in _BETAS)
    move: Tensor = state["average"] / first / ((state["square"] / second).sqrt() + _SMALL)
    return move


def orthogonal(matrices: Tensor) -> Tensor:
    """U V' of each matrix = U S V', nearly: 0.68 to 1.17 for the singular values above 0.5% of the matrix's norm.

    Every iterate is a small square matrix times the one at the start, so only the small ones are multiplied.
    """
    is_wide = matrices.shape[-2] <= matrices.shape[-1]
    wide = matrices if is_wide else matrices.mT
    wide = wide / (torch.linalg.matrix_norm(wide, keepdim=True) + _SMALL)  # what has no gradient any more comes to rest
    gram = wide @ wide.mT
    unity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    factor = turn = _turn(gram, unity)
    for _ in range(_TIMES - 1):
        gram = turn @ gram @ turn
        turn = _turn(gram, unity)
        factor = turn @ factor
    found: Tensor = factor @ wide
    return found if is_wide else found.mT


def _turn(gram: Tensor, unity: Tensor) -> Tensor:
    """What an iterate with this gram matrix is multiplied by to be the next one."""
    found: Tensor = torch.baddbmm(_A * unity + _B * gram, gram, gram, alpha=_C)
    return found
