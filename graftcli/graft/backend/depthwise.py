"""A faster backward pass for depthwise convolutions in bfloat16 on a CPU.

In bfloat16 oneDNN has no fast kernel for the input's gradient of a strided convolution, nor for the weight's gradient
of a kernel wider than three. The first is computed in float32 here, the second from tiles of 3x3.
Measured in recipes/results/speed.md.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.overrides import TorchFunctionMode

_TILE = 3


class FastDepthwise(TorchFunctionMode):
    """While active, `conv2d` computes in bfloat16 with the faster backward pass wherever PyTorch's is slow."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Replace `conv2d` while gradients are recorded; call any other function as it is."""
        replaced = func is torch.conv2d and torch.is_grad_enabled()
        called: Callable[..., object] = _conv2d if replaced else func
        return called(*args, **(kwargs or {}))


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    if isinstance(padding, str) or not _has_slow_gradient(input, weight, _pair(stride), _pair(dilation), groups):
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    dtype = torch.bfloat16
    terms = input.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    return cast(Tensor, _DepthwiseConv2d.apply(*terms, _pair(stride), _pair(padding)))


def _has_slow_gradient(
    input: Tensor, weight: Tensor, stride: tuple[int, int], dilation: tuple[int, int], groups: int
) -> bool:
    depthwise = groups > 1 and groups == weight.shape[0] and weight.shape[1] == 1 and input.dim() == 4
    slow = max(stride) > 1 or max(weight.shape[2:]) > _TILE
    return depthwise and slow and dilation == (1, 1) and input.device.type == "cpu"


class _DepthwiseConv2d(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.geometry = stride, padding  # type: ignore[attr-defined]
        with torch.autocast("cpu", enabled=False):
            return F.conv2d(input, weight, bias, stride, padding, 1, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        stride, padding = ctx.geometry  # type: ignore[attr-defined]
        of_input, of_weight, of_bias, *_ = ctx.needs_input_grad  # type: ignore[attr-defined]
        return (
            input_gradient(gradient, input, weight, stride, padding) if of_input else None,
            weight_gradient(gradient, input, weight, stride, padding) if of_weight else None,
            gradient.sum((0, 2, 3)) if of_bias else None,
            None,
            None,
        )


def input_gradient(
    gradient: Tensor, input: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """The gradient of a depthwise convolution's input; in float32 if the convolution is strided."""
    if max(stride) == 1:
        return _gradients(gradient, input, weight, stride, padding, (True, False))[0]
    return _gradients(gradient.float(), input.float(), weight.float(), stride, padding, (True, False))[0].to(
        input.dtype
    )


def weight_gradient(
    gradient: Tensor, input: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """The gradient of a depthwise convolution's weight; from tiles of 3x3 if the kernel is wider."""
    height, width = weight.shape[2:]
    if min(height, width) < _TILE or max(height, width) == _TILE:
        return _gradients(gradient, input, weight, stride, padding, (False, True))[1]
    padded = F.pad(input, (padding[1], padding[1], padding[0], padding[0]))
    rows, columns = ((size - 1) * step + _TILE for size, step in zip(gradient.shape[2:], stride, strict=True))
    result, tile = torch.empty_like(weight), weight[:, :, :_TILE, :_TILE]
    for top in _tiles(height):
        for left in _tiles(width):
            piece = padded[:, :, top : top + rows, left : left + columns].contiguous(memory_format=torch.channels_last)
            part = _gradients(gradient, piece, tile, stride, (0, 0), (False, True))[1]
            result[:, :, top : top + _TILE, left : left + _TILE] = part
    return result


def _tiles(size: int) -> list[int]:
    """The starts of tiles that cover a kernel of this size; the last one overlaps the one before it if need be."""
    return sorted({min(start, size - _TILE) for start in range(0, size, _TILE)})


def _gradients(
    gradient: Tensor,
    input: Tensor,
    weight: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    wanted: tuple[bool, bool],
) -> tuple[Tensor, Tensor]:
    """PyTorch's own gradients of a depthwise convolution's input and weight."""
    no_output_padding = (0, 0)
    input_grad, weight_grad, _ = torch.ops.aten.convolution_backward(
        gradient, input, weight, None, stride, padding, (1, 1), False, no_output_padding, len(weight), (*wanted, False)
    )
    return input_grad, weight_grad


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    """Both values of an argument that may be one number for both directions."""
    first, last = (value, value) if isinstance(value, int) else (value[0], value[-1])
    return first, last
