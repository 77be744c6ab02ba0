"""Solves all weights and the bias of a layer of a derived student by least squares."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graftcli.graft.layerwise.layer_pairs import LayerPair, folded, set_folded
from graftcli.graft.layerwise.one_layer import LayerInputs
from graftcli.graft.surgery.fold import Plain
from graftcli.models.least_squares import Equations, solve, solve_dual, to_float64

_MIN_ROWS, _ROWS_PER_INPUT = (
    2**13,
    8,
)  # sampled positions over all views: the minimum, and per input of the layer
MAX_INPUTS = 8192  # inputs per position, including the kernel; more equations need too much memory
# relative to the mean of the diagonal: the minimum, and the value for as many positions as inputs
_MIN_RIDGE, _RIDGE_PER_INPUT = 1e-2, 0.1


def fits_in_rows(layer: LayerPair) -> bool:
    """Whether the inputs of both layers at a position can be laid out as a matrix row that is not too long."""
    if layer.last.weight[0].numel() > MAX_INPUTS:
        return False
    convolutions = [module for module in (layer.last, layer.teacher) if isinstance(module, nn.Conv2d)]
    return all(type(conv) is nn.Conv2d and conv.padding_mode == "zeros" for conv in convolutions)


@torch.no_grad()
def solve_whole(layer: LayerPair, inputs: LayerInputs, ridge: float | None = None) -> None:
    """Set the layer's weight, and its bias if it has one, to the best fit of the teacher layer's outputs.

    The default ridge is larger if there are few positions: a layer after global pooling has only one per view.
    """
    weight, bias = folded(layer)
    has_bias = layer.norm is not None or layer.last.bias is not None
    start = torch.cat([weight.flatten(1), bias[:, None]], 1) if has_bias else weight.flatten(1)
    equations, count = _sampled(layer, inputs, start.shape[1], has_bias)
    ridge = max(_MIN_RIDGE, _RIDGE_PER_INPUT * start.shape[1] / count) if ridge is None else ridge
    if count < start.shape[1]:
        sources, targets = (torch.cat(both) for both in zip(*((x, y) for _, x, y in equations), strict=True))
        solution = solve_dual(sources, targets, start, ridge)
    else:
        solution = solve(equations, start, ridge).weight
    new_weight = solution[:, : weight[0].numel()].reshape(weight.shape)
    set_folded(layer, new_weight, solution[:, -1] if has_bias else bias, inputs.student)


def _sampled(layer: LayerPair, inputs: LayerInputs, width: int, has_bias: bool) -> tuple[Iterator[Equations], int]:
    """Return equations at random positions of each view, and their number of rows."""
    views = sum(map(len, inputs.student))
    positions = _position_count(layer.last, layer.input_of_last(inputs.student[0][:1]))
    per_view = min(positions, -(-max(_MIN_ROWS, _ROWS_PER_INPUT * width) // views))
    return _equations(layer, inputs, positions, per_view, has_bias), views * per_view


def _equations(
    layer: LayerPair, inputs: LayerInputs, positions: int, per_view: int, has_bias: bool
) -> Iterator[Equations]:
    generator, teacher_layer = torch.Generator().manual_seed(0), layer.teacher
    weight = to_float64(teacher_layer.weight.detach()[layer.outputs].flatten(1))
    bias = 0 if teacher_layer.bias is None else to_float64(teacher_layer.bias.detach()[layer.outputs])
    for student, teacher in inputs.chunks():
        chosen = torch.randperm(positions, generator=generator)[:per_view].to(student.device)
        source = _patches(layer.last, layer.input_of_last(student), chosen)
        # in float64: float32 products depend on memory alignment, and a resumed run would differ
        target = to_float64(_patches(teacher_layer, teacher, chosen)) @ weight.T + bias
        yield 1.0, torch.cat([source, torch.ones_like(source[:, :1])], 1) if has_bias else source, target


def _position_count(layer: Plain, value: Tensor) -> int:
    """Return the number of output positions of one view."""
    if isinstance(layer, nn.Conv2d):
        return math.prod(_output_size(layer, _padded(layer, value)))
    return value[0].numel() // value.shape[-1]


def _output_size(conv: nn.Conv2d, padded: Tensor) -> list[int]:
    dims = zip(padded.shape[2:], conv.dilation, conv.kernel_size, conv.stride, strict=True)
    return [(side - dilation * (kernel - 1) - 1) // stride + 1 for side, dilation, kernel, stride in dims]


def _padded(conv: nn.Conv2d, value: Tensor) -> Tensor:
    if conv.padding == "valid":
        return value
    if isinstance(conv.padding, str):  # "same": an odd amount pads one more at the end
        totals = [dilation * (kernel - 1) for dilation, kernel in zip(conv.dilation, conv.kernel_size, strict=True)]
        return F.pad(value, [n for total in reversed(totals) for n in (total // 2, total - total // 2)])
    vertical, horizontal = conv.padding
    return F.pad(value, (horizontal, horizontal, vertical, vertical))


def _patches(layer: Plain, value: Tensor, positions: Tensor) -> Tensor:
    """Return the inputs of the layer at these positions of each view, as [views * positions, inputs]."""
    if not isinstance(layer, nn.Conv2d):
        return value.reshape(len(value), -1, value.shape[-1])[:, positions].flatten(0, 1)
    (height, width), (down, right) = layer.kernel_size, layer.dilation
    padded = _padded(layer, value)
    columns_out = _output_size(layer, padded)[1]
    rows, columns = positions // columns_out * layer.stride[0], positions % columns_out * layer.stride[1]
    taps = [(rows + i * down) * padded.shape[3] + columns + j * right for i in range(height) for j in range(width)]
    channels_last = padded.flatten(2).transpose(1, 2).contiguous()  # the channels of a tap are then contiguous
    patches: Tensor = channels_last[:, torch.stack(taps, 1).flatten()].unflatten(1, (len(positions), -1))
    return patches.transpose(2, 3).flatten(2).flatten(0, 1)
