"""A layer of a student made from the teacher, solved for as a whole: its weights and bias anew, by least squares."""

import math
from collections.abc import Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graftcli.graft.counterparts import Layer, folded, put
from graftcli.graft.folding import Plain
from graftcli.graft.one_layer import Seen, Side
from graftcli.nets.least_squares import solved

_ENOUGH, _A_COLUMN = 2**14, 8  # places at which a layer is looked at: at least, and for each number that it reads there
_WIDEST = 8192  # numbers that it reads at a place: above it the equations alone fill the memory


def is_solvable(layer: Layer) -> bool:
    """Whether what the layer sees at a place can be laid out as a row."""
    last = layer.last
    if layer.last.weight[0].numel() > _WIDEST:
        return False
    return not isinstance(last, nn.Conv2d) or (last.padding_mode == "zeros" and not isinstance(last.padding, str))


@torch.no_grad()
def solve_whole(layer: Layer, seen: Seen, ridge: float) -> None:
    """Give the layer the weights, and the bias if it has one, that come nearest to what the teacher's layer gives."""
    weight, bias = folded(layer)
    has_bias = layer.norm is not None or layer.last.bias is not None
    start = torch.cat([weight.flatten(1), bias[:, None]], 1) if has_bias else weight.flatten(1)
    found = solved(_patches(layer, seen, start.shape[1], has_bias), start, ridge).weight
    put(layer, found[:, : weight[0].numel()].reshape(weight.shape), found[:, -1] if has_bias else bias, seen.own)


def _patches(layer: Layer, seen: Seen, columns: int, has_bias: bool) -> Iterator[Side]:
    """What the layer sees at places drawn at random, and what the teacher's gives there."""
    drawn = torch.Generator().manual_seed(0)
    each = -(-max(_ENOUGH, _A_COLUMN * columns) // sum(map(len, seen.own)))
    theirs = layer.theirs
    weight = theirs.weight.detach()[layer.outputs].flatten(1)
    bias = 0 if theirs.bias is None else theirs.bias.detach()[layer.outputs]
    for own, their in zip(seen.own, seen.theirs, strict=True):
        read = layer.before(own)
        places = torch.randperm(_places(layer.last, read), generator=drawn)[:each].to(read.device)
        given, wanted = _seen_at(layer.last, read, places), _seen_at(theirs, their, places) @ weight.T + bias
        yield 1.0, torch.cat([given, torch.ones_like(given[:, :1])], 1) if has_bias else given, wanted


def _places(layer: Plain, read: Tensor) -> int:
    """How many places there are in what it makes of one view."""
    return math.prod(_map_of(layer, read)) if isinstance(layer, nn.Conv2d) else read[0].numel() // read.shape[-1]


def _map_of(conv: nn.Conv2d, read: Tensor) -> list[int]:
    padding = cast(tuple[int, int], conv.padding)
    each = zip(read.shape[2:], padding, conv.dilation, conv.kernel_size, conv.stride, strict=True)
    return [
        (side + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1 for side, pad, dilation, kernel, stride in each
    ]


def _seen_at(layer: Plain, read: Tensor, places: Tensor) -> Tensor:
    """What the layer multiplies by its weights at these places of each view, as [views * places, inputs]."""
    if not isinstance(layer, nn.Conv2d):
        return read.reshape(len(read), -1, read.shape[-1])[:, places].flatten(0, 1)
    (high, wide), (down, right) = layer.kernel_size, layer.dilation
    up, left = cast(tuple[int, int], layer.padding)
    width = _map_of(layer, read)[1]
    rows_, columns = places // width * layer.stride[0], places % width * layer.stride[1]
    padded = F.pad(read, (left, left, up, up))
    taps = [padded[:, :, rows_ + i * down, columns + j * right] for i in range(high) for j in range(wide)]
    return torch.stack(taps, 2).movedim(3, 1).flatten(2).flatten(0, 1)
