"""Data-parallel training: each process trains on a share of the batch, and all take the same optimiser step.

The result equals one process within rounding, for any loss: gradients are summed, and so are the statistics of a batch
(of BatchNorms in train mode, and those that a loss divides by).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.nn.modules.batchnorm import _BatchNorm as AnyBatchNorm

from graftcli.distributed.world import World


def sum_gradients(world: World, parameters: Iterable[nn.Parameter], loss: Tensor) -> Tensor:
    """Replace the gradients by their sums over all processes, and return the sum of the losses."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), loss.detach().reshape(1)])
    sizes = [gradient.numel() for gradient in gradients]
    *sums, total = world.sum(flat).split([*sizes, 1])
    for gradient, summed in zip(gradients, sums, strict=True):
        gradient.copy_(summed.view_as(gradient))
    result: Tensor = total.reshape(())
    return result


class _Sum(torch.autograd.Function):
    """The sum over all processes. Its gradient is the sum over all processes too, because each adds to the loss."""

    @staticmethod
    def forward(ctx: BackwardCFunction, tensor: Tensor, world: World) -> Tensor:
        """Sum over all processes."""
        ctx.world = world  # type: ignore[attr-defined]
        return world.sum(tensor)

    @staticmethod
    def backward(ctx: BackwardCFunction, *gradients: Tensor) -> tuple[Tensor, None]:
        """Sum the gradients of all processes."""
        return ctx.world.sum(gradients[0]), None  # type: ignore[attr-defined]


@contextmanager
def synchronised(world: World, norms: Iterable[AnyBatchNorm]) -> Iterator[None]:
    """Let BatchNorms in train mode use the statistics of the whole batch.

    torch.nn.SyncBatchNorm supports CUDA only.
    """
    changed = [] if world.size == 1 else list(norms)
    for norm in changed:
        norm.forward = partial(_forward, norm, world)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in changed:
            del norm.forward


def _forward(norm: AnyBatchNorm, world: World, inputs: Tensor) -> Tensor:
    if not norm.training:
        return type(norm).forward(norm, inputs)
    values = inputs.float()
    dims = [0, *range(2, inputs.ndim)]
    shape = (1, -1, *[1] * (inputs.ndim - 2))
    count = world.sum(torch.full((), inputs.numel() / inputs.shape[1], device=inputs.device))
    mean = _Sum.apply(values.sum(dims), world) / count
    centred = values - mean.view(shape)
    variance = _Sum.apply(centred.square().sum(dims), world) / count
    _update(norm, mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
    output: Tensor = centred * (variance + norm.eps).rsqrt().view(shape)
    if norm.affine:
        output = output * norm.weight.view(shape) + norm.bias.view(shape)
    output = output.to(inputs.dtype)
    for name in ("drop", "act"):  # timm's BatchNormAct2d has both
        if isinstance(layer := getattr(norm, name, None), nn.Module):
            output = layer(output)
    return output


@torch.no_grad()
def _update(norm: AnyBatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Update the running statistics, as BatchNorm does."""
    if norm.running_mean is None or norm.running_var is None:
        return
    assert norm.num_batches_tracked is not None  # every norm with running statistics has it
    norm.num_batches_tracked.add_(1)
    share = torch.full_like(mean, norm.momentum) if norm.momentum is not None else 1 / norm.num_batches_tracked.float()
    norm.running_mean.lerp_(mean, share)
    norm.running_var.lerp_(variance, share)
