"""A layer of a student made from the teacher, solved for as a whole: its weights and bias anew, by least squares."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graftcli.graft.layerwise.layer_pairs import LayerPair, folded, put
from graftcli.graft.layerwise.one_layer import LayerInputs
from graftcli.graft.surgery.fold import Plain
from graftcli.models.least_squares import Equations, in_double, solved, solved_from_few

_ENOUGH, _A_NUMBER = 2**13, 8  # places at which a layer is looked at: at least, and for each number that it reads there
_MOST_NUMBERS = 8192  # that it reads at a place: above it the equations alone fill the memory
_RIDGE, _FEW = 1e-2, 0.1  # of the mean of the diagonal: at least, and where there are as many places as numbers


def fits_in_rows(layer: LayerPair) -> bool:
    """Whether what the layer and the teacher's see at a place can be laid out as rows, and is not too much."""
    if layer.last.weight[0].numel() > _MOST_NUMBERS:
        return False
    convolutions = [one for one in (layer.last, layer.theirs) if isinstance(one, nn.Conv2d)]
    return all(type(one) is nn.Conv2d and one.padding_mode == "zeros" for one in convolutions)


@torch.no_grad()
def solve_whole(layer: LayerPair, seen: LayerInputs, ridge: float | None = None) -> None:
    """Give the layer the weights, and the bias if it has one, that come nearest to what the teacher's layer gives.

    Without a ridge it is a stronger one the fewer places there are: a layer behind pooling has one a view.
    """
    weight, bias = folded(layer)
    has_bias = layer.norm is not None or layer.last.bias is not None
    before = torch.cat([weight.flatten(1), bias[:, None]], 1) if has_bias else weight.flatten(1)
    parts, rows = _patches(layer, seen, before.shape[1], has_bias)
    ridge = max(_RIDGE, _FEW * before.shape[1] / rows) if ridge is None else ridge
    if rows < before.shape[1]:
        given, wanted = (torch.cat(both) for both in zip(*((given, wanted) for _, given, wanted in parts), strict=True))
        found = solved_from_few(given, wanted, before, ridge)
    else:
        found = solved(parts, before, ridge).weight
    put(layer, found[:, : weight[0].numel()].reshape(weight.shape), found[:, -1] if has_bias else bias, seen.own)


def _patches(layer: LayerPair, seen: LayerInputs, numbers: int, has_bias: bool) -> tuple[Iterator[Equations], int]:
    """What the layer sees at places drawn at random, and what the teacher's gives there; at how many places."""
    views, places = sum(map(len, seen.own)), _places(layer.last, layer.before(seen.own[0][:1]))
    each = min(places, -(-max(_ENOUGH, _A_NUMBER * numbers) // views))
    return _drawn(layer, seen, places, each, has_bias), views * each


def _drawn(layer: LayerPair, seen: LayerInputs, places: int, each: int, has_bias: bool) -> Iterator[Equations]:
    source, theirs = torch.Generator().manual_seed(0), layer.theirs
    weight = in_double(theirs.weight.detach()[layer.outputs].flatten(1))
    bias = 0 if theirs.bias is None else in_double(theirs.bias.detach()[layer.outputs])
    for own, their in zip(seen.own, seen.theirs, strict=True):
        chosen = torch.randperm(places, generator=source)[:each].to(own.device)
        given = _seen_at(layer.last, layer.before(own), chosen)
        wanted = in_double(_seen_at(theirs, their, chosen)) @ weight.T + bias  # the same bits wherever it lies
        yield 1.0, torch.cat([given, torch.ones_like(given[:, :1])], 1) if has_bias else given, wanted


def _places(layer: Plain, read: Tensor) -> int:
    """How many places there are in what it makes of one view."""
    if isinstance(layer, nn.Conv2d):
        return math.prod(_map_of(layer, _padded(layer, read)))
    return read[0].numel() // read.shape[-1]


def _map_of(conv: nn.Conv2d, padded: Tensor) -> list[int]:
    each = zip(padded.shape[2:], conv.dilation, conv.kernel_size, conv.stride, strict=True)
    return [(side - dilation * (kernel - 1) - 1) // stride + 1 for side, dilation, kernel, stride in each]


def _padded(conv: nn.Conv2d, read: Tensor) -> Tensor:
    if conv.padding == "valid":
        return read
    if isinstance(conv.padding, str):  # "same": what is odd is added at the end
        lost = [dilation * (kernel - 1) for dilation, kernel in zip(conv.dilation, conv.kernel_size, strict=True)]
        return F.pad(read, [n for one in reversed(lost) for n in (one // 2, one - one // 2)])
    up, left = conv.padding
    return F.pad(read, (left, left, up, up))


def _seen_at(layer: Plain, read: Tensor, places: Tensor) -> Tensor:
    """What the layer multiplies by its weights at these places of each view, as [views * places, numbers]."""
    if not isinstance(layer, nn.Conv2d):
        return read.reshape(len(read), -1, read.shape[-1])[:, places].flatten(0, 1)
    (high, wide), (down, right) = layer.kernel_size, layer.dilation
    padded = _padded(layer, read)
    width = _map_of(layer, padded)[1]
    rows, columns = places // width * layer.stride[0], places % width * layer.stride[1]
    taps = [(rows + i * down) * padded.shape[3] + columns + j * right for i in range(high) for j in range(wide)]
    channels_last = padded.flatten(2).transpose(1, 2).contiguous()  # what is read at a tap then lies side by side
    found: Tensor = channels_last[:, torch.stack(taps, 1).flatten()].unflatten(1, (len(places), -1))
    return found.transpose(2, 3).flatten(2).flatten(0, 1)
