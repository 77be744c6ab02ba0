"""Layer arithmetic: a bias-free 1x1 multiplied into the convolution or linear layer beside it.

Every function returns new layers, computed in float64 and kept in the precision of the old ones. An adapter is a matrix
[outputs, inputs]; A(x) stands for it at each place of a map.
"""

import copy
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

Plain = nn.Conv2d | nn.Linear
L = TypeVar("L", bound=nn.Module)


def into_reader(reader: Plain, adapter: Tensor) -> Plain:
    """A copy of `reader` for which into_reader(reader, A)(x) == reader(A(x)).

    A linear layer behind a flattened map holds several entries in a row for each channel, a convolution its kernel.
    """
    weight = reader.weight.detach().double()
    by_channel = weight.reshape(weight.shape[0], adapter.shape[0], -1)
    folded = torch.einsum("oip,ij->ojp", by_channel, adapter.detach().double())
    shape = (len(weight), adapter.shape[1], *weight.shape[2:]) if weight.ndim > 2 else (len(weight), -1)
    return _with(reader, weight=folded.reshape(shape))


def into_maker(maker: Plain, adapter: Tensor) -> Plain:
    """A copy of `maker` for which into_maker(maker, A)(x) == A(maker(x))."""
    matrix = adapter.detach().double()
    weight = torch.tensordot(matrix, maker.weight.detach().double(), 1)
    if maker.bias is None:
        return _with(maker, weight=weight)
    return _with(maker, weight=weight, bias=matrix @ maker.bias.detach().double())


def past_batchnorm(maker: Plain, norm: nn.BatchNorm2d, adapter: Tensor) -> tuple[Plain, nn.BatchNorm2d]:
    """Copies of both for which, in eval mode, norm'(maker'(x)) == A(norm(maker(x))).

    The scale goes into the maker; mean and bias stay with the norm, so that a maker without bias stays without one.
    """
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a BatchNorm without running statistics is no linear layer")
    matrix = adapter.detach().double()
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * norm.weight.detach().double()
    ones = torch.ones(len(matrix), dtype=torch.float64, device=matrix.device)
    # what the norm divides by is its weight, or one
    numbers = {
        "running_mean": matrix @ (scale * norm.running_mean.double()),
        "running_var": ones if norm.affine else ones - norm.eps,
    }
    if norm.affine:
        numbers["weight"] = (ones + norm.eps).sqrt()
    if norm.bias is not None:
        numbers["bias"] = matrix @ norm.bias.detach().double()
    return into_maker(maker, matrix * scale), _with(norm, **numbers)


def resized(layer: nn.Module, shape: Sequence[int]) -> nn.Module:
    """A copy of a layer whose largest tensors have another shape; its numbers mean nothing until they are loaded."""
    if not isinstance(layer, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
        raise TypeError(f"a {type(layer).__name__} takes no adapter in")
    held = {name: t.ndim for name, t in (*layer.named_parameters(), *layer.named_buffers()) if t.ndim}
    return _with(layer, **{name: torch.zeros(shape[:ndim]) for name, ndim in held.items()})


def _with(layer: L, **tensors: Tensor) -> L:
    """A copy of a layer with other numbers, and as many inputs and outputs as they say."""
    made = copy.deepcopy(layer)
    for name, tensor in tensors.items():
        old = getattr(layer, name)
        value = tensor.to(old)
        setattr(made, name, nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value)
    if isinstance(made, nn.Conv2d):
        made.out_channels, made.in_channels = made.weight.shape[:2]
    elif isinstance(made, nn.Linear):
        made.out_features, made.in_features = made.weight.shape
    elif isinstance(made, nn.BatchNorm2d) and made.running_mean is not None:
        made.num_features = len(made.running_mean)
    return made
