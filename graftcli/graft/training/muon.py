"""Muon (Jordan et al., 2024): momentum for matrices, orthogonalised so that all directions move equally fast.

Other optimisers make slow progress in directions with small gradients, in which matrices have to learn too. Parameters
that are not matrices are optimised by AdamW. Ablation: recipes/results/ablation.md.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

_BETAS = (0.9, 0.999)  # of AdamW, for parameters that are not matrices
_EPS = 1e-8
# x -> ax + bx^3 + cx^5, five times: moves singular values in (0, 1] towards 1 (Jordan's coefficients)
_A, _B, _C, _ITERATIONS = 3.4445, -4.7750, 2.0315, 5
_BATCHED_NUMEL = 2**16  # matrices of at most this many elements are batched by shape
_ADAM_RMS = 0.2  # the typical RMS of Adam's update; with equal RMS, both use one learning rate (Liu et al., 2025)


class Muon(torch.optim.Optimizer):
    """Muon with decoupled weight decay, as in AdamW. A convolution is a matrix with one row per output channel."""

    def __init__(self, groups: ParamsT, momentum: float = 0.9, weight_decay: float = 0.0) -> None:
        super().__init__(groups, {"momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # closures are not supported
        """Update all parameters that have a gradient."""
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            gradients = {p: p.grad for p in group["params"] if p.grad is not None}
            if not gradients:
                continue
            torch._foreach_mul_(list(gradients), 1 - rate * group["weight_decay"])
            if others := [p for p in gradients if not is_matrix(p)]:
                updates = _adam_updates([self.state[p] for p in others], [gradients[p] for p in others])
                torch._foreach_sub_(others, updates, alpha=rate)
            for batch in _batched(filter(is_matrix, gradients)):
                momenta = _nesterov([self.state[p] for p in batch], [gradients[p] for p in batch], momentum)
                orthogonals = orthogonal(torch.stack([momentum.flatten(1) for momentum in momenta]))
                scale = _ADAM_RMS * math.sqrt(max(orthogonals.shape[1:]))
                changes = [update.reshape(p.shape) for p, update in zip(batch, orthogonals, strict=True)]
                torch._foreach_sub_(batch, changes, alpha=rate * scale)


def _batched(matrices: Iterable[Tensor]) -> Iterable[list[Tensor]]:
    """Group small matrices by shape, because kernel launches dominate their cost; large ones stay single."""
    batches: dict[object, list[Tensor]] = {}
    for matrix in matrices:
        batches.setdefault(matrix.shape if matrix.numel() <= _BATCHED_NUMEL else id(matrix), []).append(matrix)
    return batches.values()


def is_matrix(parameter: Tensor) -> bool:
    """Whether a parameter is optimised as a matrix: linear and embedding weights, 2d convolutions of several channels.

    The groups of a grouped convolution are stacked in one matrix.
    """
    return parameter.ndim in (2, 4) and min(parameter.shape[:2]) > 1


def _nesterov(states: list[dict[str, Tensor]], gradients: list[Tensor], momentum: float) -> list[Tensor]:
    for state, gradient in zip(states, gradients, strict=True):
        if not state:
            state["average"] = torch.zeros_like(gradient)
    averages = [state["average"] for state in states]
    torch._foreach_lerp_(averages, gradients, 1 - momentum)
    return list(torch._foreach_lerp(gradients, averages, momentum))


def _adam_updates(states: list[dict[str, Tensor]], gradients: list[Tensor]) -> list[Tensor]:
    """AdamW's updates of all parameters at once: on a GPU, many small kernels would dominate the step."""
    for state, gradient in zip(states, gradients, strict=True):
        if not state:
            state.update(step=torch.zeros(()), average=torch.zeros_like(gradient), square=torch.zeros_like(gradient))
        state["step"] += 1  # on the CPU, so that the learning rate is known without waiting for the device
    averages, squares = ([state[name] for state in states] for name in ("average", "square"))
    torch._foreach_lerp_(averages, gradients, 1 - _BETAS[0])
    torch._foreach_lerp_(squares, torch._foreach_mul(gradients, gradients), 1 - _BETAS[1])
    first, second = ([1 - beta ** float(state["step"]) for state in states] for beta in _BETAS)
    divisors = torch._foreach_sqrt(torch._foreach_div(squares, second))
    torch._foreach_add_(divisors, _EPS)
    return list(torch._foreach_div(torch._foreach_div(averages, first), divisors))


def orthogonal(matrices: Tensor) -> Tensor:
    """Approximate U Vᵀ of each matrix U S Vᵀ: singular values above 0.5% of the Frobenius norm become 0.68 to 1.17.

    Every iterate is a small square matrix times the input, so only the small matrices are multiplied.
    """
    is_wide = matrices.shape[-2] <= matrices.shape[-1]
    wide = matrices if is_wide else matrices.mT
    wide = wide / (torch.linalg.matrix_norm(wide, keepdim=True) + _EPS)  # matrices with zero gradient do not change
    gram = wide @ wide.mT
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    product = factor = _factor(gram, eye)
    for _ in range(_ITERATIONS - 1):
        gram = factor @ gram @ factor
        factor = _factor(gram, eye)
        product = factor @ product
    result: Tensor = product @ wide
    return result if is_wide else result.mT


def _factor(gram: Tensor, eye: Tensor) -> Tensor:
    """Return the factor that turns an iterate with this Gram matrix into the next."""
    factor: Tensor = torch.baddbmm(_A * eye + _B * gram, gram, gram, alpha=_C)
    return factor
