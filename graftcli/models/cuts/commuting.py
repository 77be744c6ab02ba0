"""Operations that commute with a bias-free 1x1 convolution: they treat all channels alike and never mix them."""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
from torch import fx, nn
from torch.fx.node import Argument
from torch.nn import functional as F

from graftcli.models.tracing.trace import Traced


@dataclass(frozen=True)
class Axis:
    """The channel dimension, and the number of consecutive entries per channel."""

    dim: int
    repeat: int = 1


_COMMUTING_MODULES: tuple[type[nn.Module], ...] = (
    nn.Identity,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.Dropout,
    nn.Dropout2d,
)
_COMMUTING_FUNCTIONS: tuple[Callable[..., object], ...] = (F.avg_pool2d, F.adaptive_avg_pool2d)
_FLATTEN = (torch.flatten, "flatten")
_PERMUTE = (torch.permute, "permute")
_TRANSPOSE = (torch.transpose, "transpose", torch.swapaxes, "swapaxes", torch.swapdims, "swapdims")
_RESHAPE = (torch.reshape, "reshape", "view", torch.unflatten, "unflatten")
_MEAN = (torch.mean, "mean")


def axis_after(traced: Traced, user: fx.Node, node: fx.Node, axis: Axis) -> Axis | None:
    """The channel axis of `node` after `user`; None if `user` does not commute with a 1x1 convolution."""
    if user not in traced.shapes or node not in traced.shapes or user.op == "output":
        return None
    shape = traced.shapes[node]
    module = traced.module_of(user)
    if module is not None:
        return _axis_after_module(module, shape, axis)
    if [n for n in user.all_input_nodes if n not in traced.sizes] != [node] or user.args[:1] != (node,):
        return None
    if user.target in _RESHAPE and not any(isinstance(arg, torch.dtype) for arg in user.args):
        return _reshaped(shape, traced.shapes[user], axis)
    return _axis_after_function(user, shape, axis)


def _axis_after_module(module: nn.Module, shape: tuple[int, ...], axis: Axis) -> Axis | None:
    from timm.layers import AvgPool2dSame

    if type(module) in _COMMUTING_MODULES:
        spatial = isinstance(module, nn.AvgPool2d | nn.AdaptiveAvgPool2d)
        return axis if not spatial or axis == Axis(1) else None
    if type(module) is AvgPool2dSame:
        return axis if axis == Axis(1) else None
    if type(module) is nn.Flatten and module.end_dim == -1:
        return _flattened(shape, axis, module.start_dim)
    return None


def _axis_after_function(user: fx.Node, shape: tuple[int, ...], axis: Axis) -> Axis | None:
    if user.target in _COMMUTING_FUNCTIONS:
        return axis if axis == Axis(1) else None
    if user.target in _FLATTEN:
        start, end = _argument(user, 1, "start_dim", 0), _argument(user, 2, "end_dim", -1)
        return _flattened(shape, axis, start) if end in (-1, len(shape) - 1) and isinstance(start, int) else None
    if user.target in _PERMUTE:
        return _permuted(user, shape, axis)
    if user.target in _TRANSPOSE:
        return _transposed(user, shape, axis)
    if user.target in _MEAN:
        return _averaged(user, shape, axis)
    if user.target is operator.getitem:
        return _sliced(user.args[1], axis)
    return axis if user.target == "contiguous" else None


def _argument(node: fx.Node, position: int, name: str, default: Argument) -> Argument:
    return node.kwargs.get(name, node.args[position] if len(node.args) > position else default)


def _integers(values: Argument) -> list[int] | None:
    """The values as integers; None if they are anything else."""
    if not isinstance(values, tuple | list):
        return None
    integers = [value for value in values if isinstance(value, int)]
    return integers if len(integers) == len(values) else None


def _permuted(user: fx.Node, shape: tuple[int, ...], axis: Axis) -> Axis | None:
    """permute(x, (0, 2, 3, 1)), x.permute(0, 2, 3, 1)"""
    first = _argument(user, 1, "dims", ())
    order = _integers(user.args[1:] if isinstance(first, int) else first)
    if order is None:
        return None
    return Axis([d % len(shape) for d in order].index(axis.dim), axis.repeat)


def _transposed(user: fx.Node, shape: tuple[int, ...], axis: Axis) -> Axis | None:
    dims = _integers((_argument(user, 1, "dim0", None), _argument(user, 2, "dim1", None)))
    if dims is None:
        return None
    first, second = (d % len(shape) for d in dims)
    return Axis({first: second, second: first}.get(axis.dim, axis.dim), axis.repeat)


def _reshaped(old: tuple[int, ...], new: tuple[int, ...], axis: Axis) -> Axis | None:
    """(B, H*W, C) <-> (B, H, W, C), where the channels stay one dimension; or (B, C, H, W) -> (B, C*H*W)."""
    if axis.repeat != 1:
        return None
    channels, spatial = old[axis.dim], prod(old[axis.dim + 1 :])
    for dim in range(1, len(new)):
        if prod(new[:dim]) != prod(old[: axis.dim]):
            continue
        if new[dim] == channels:
            return Axis(dim)
        if new[dim] == channels * spatial:
            return Axis(dim, spatial)
    return None


def _flattened(shape: tuple[int, ...], axis: Axis, start: int) -> Axis | None:
    """(B, C, H, W) -> (B, C*H*W), with H*W consecutive entries per channel."""
    start %= len(shape)
    if start != axis.dim or axis.repeat != 1:
        return axis if axis.dim < start else None
    repeat = 1
    for extent in shape[axis.dim + 1 :]:
        repeat *= extent
    return Axis(axis.dim, repeat)


def _averaged(user: fx.Node, shape: tuple[int, ...], axis: Axis) -> Axis | None:
    dim, keepdim = _argument(user, 1, "dim", None), bool(_argument(user, 2, "keepdim", False))
    dims = _integers((dim,) if isinstance(dim, int) else dim)
    if dims is None:
        return None
    averaged = {d % len(shape) for d in dims}
    if axis.dim in averaged or 0 in averaged:
        return None
    return axis if keepdim else Axis(axis.dim - sum(d < axis.dim for d in averaged), axis.repeat)


def _sliced(index: Argument, axis: Axis) -> Axis | None:
    """x[:, :, ::2, ::2], where the slices keep all of batch and channels."""
    if not isinstance(index, tuple) or not all(isinstance(i, slice) for i in index):
        return None
    whole = all(index[d] == slice(None) for d in (0, axis.dim) if d < len(index))
    return axis if whole else None
