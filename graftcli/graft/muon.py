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
_AS_ADAM = 0.2  # the usual size of a number in a step of Adam, in rates: so one rate serves both (Liu et al., 2025)


class Muon(torch.optim.Optimizer):
    """`weight_decay` is AdamW's. Filters are matrices with a row for each channel that they give."""

    def __init__(self, groups: Iterable[dict[str, Any]], momentum: float = 0.9, weight_decay: float = 0.0) -> None:
        super().__init__(groups, {"momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no stage computes a gradient twice
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                move = _turned if is_matrix(parameter) else _scaled
                parameter.sub_(move(self.state[parameter], parameter.grad, group["momentum"]), alpha=group["lr"])


def is_matrix(parameter: Tensor) -> bool:
    """Whether it has rows and columns: weights of linear layers, of 2d convolutions over several channels, tables.

    Of a grouped convolution the groups lie below one another in one matrix.
    """
    return parameter.ndim in (2, 4) and min(parameter.shape[:2]) > 1


def _turned(state: dict[str, Any], gradient: Tensor, momentum: float) -> Tensor:
    if not state:
        state["average"] = torch.zeros_like(gradient)
    state["average"].lerp_(gradient, 1 - momentum)
    matrix = gradient.lerp(state["average"], momentum).flatten(1)  # a look ahead, as Nesterov's
    size = _AS_ADAM * math.sqrt(max(matrix.shape))
    return (size * orthogonal(matrix)).reshape(gradient.shape)


def _scaled(state: dict[str, Any], gradient: Tensor, _: float) -> Tensor:
    if not state:
        state.update(step=torch.zeros(()), average=torch.zeros_like(gradient), square=torch.zeros_like(gradient))
    state["step"] += 1
    state["average"].lerp_(gradient, 1 - _BETAS[0])
    state["square"].lerp_(gradient.square(), 1 - _BETAS[1])
    first, second = (1 - beta ** float(state["step"]) for beta in _BETAS)
    move: Tensor = state["average"] / first / ((state["square"] / second).sqrt() + _SMALL)
    return move


def orthogonal(matrix: Tensor) -> Tensor:
    """U V' of matrix = U S V', nearly: 0.68 to 1.17 for the singular values above 0.5% of the matrix's norm.

    Every iterate is a small square matrix times the one at the start, so only the small ones are multiplied.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + _SMALL)  # what has no gradient any more comes to rest
    gram = wide @ wide.T
    unity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    factor = turn = _turn(gram, unity)
    for _ in range(_TIMES - 1):
        gram = turn @ gram @ turn
        turn = _turn(gram, unity)
        factor = turn @ factor
    found: Tensor = factor @ wide
    return found if matrix.shape[0] <= matrix.shape[1] else found.T


def _turn(gram: Tensor, unity: Tensor) -> Tensor:
    """What an iterate with this gram matrix is multiplied by to be the next one."""
    return _A * unity + _B * gram + _C * (gram @ gram)
