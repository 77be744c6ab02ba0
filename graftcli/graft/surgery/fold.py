"""Folds a bias-free 1x1 adapter into the convolution or linear layer next to it.

Every function returns new layers, computed in float64 and stored in the precision of the originals. An adapter is a
matrix A [outputs, inputs]; A(x) applies it at each position of a feature map.
"""

import copy
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

Plain = nn.Conv2d | nn.Linear
L = TypeVar("L", bound=nn.Module)


def into_reader(reader: Plain, adapter: Tensor) -> Plain:
    """Return a copy of `reader` for which into_reader(reader, A)(x) == reader(A(x)).

    The weight of a linear layer after a flattened feature map has several consecutive entries per channel; that of a
    convolution has a kernel per channel.
    """
    weight = reader.weight.detach().double()
    by_channel = weight.reshape(weight.shape[0], adapter.shape[0], -1)
    folded = torch.einsum("oip,ij->ojp", by_channel, adapter.detach().double())
    shape = (len(weight), adapter.shape[1], *weight.shape[2:]) if weight.ndim > 2 else (len(weight), -1)
    return _with(reader, weight=folded.reshape(shape))


def into_producer(producer: Plain, adapter: Tensor) -> Plain:
    """Return a copy of `producer` for which into_producer(producer, A)(x) == A(producer(x))."""
    matrix = adapter.detach().double()
    weight = torch.tensordot(matrix, producer.weight.detach().double(), 1)
    if producer.bias is None:
        return _with(producer, weight=weight)
    return _with(producer, weight=weight, bias=matrix @ producer.bias.detach().double())


def past_batchnorm(producer: Plain, norm: nn.BatchNorm2d, adapter: Tensor) -> tuple[Plain, nn.BatchNorm2d]:
    """Return copies of both for which, in eval mode, norm'(producer'(x)) == A(norm(producer(x))).

    The scale moves into the producer. Mean and bias stay in the norm, so that a producer without a bias needs none.
    """
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("cannot fold past a BatchNorm without running statistics: it is not linear in eval mode")
    matrix = adapter.detach().double()
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.affine:
        scale = scale * norm.weight.detach().double()
    ones = torch.ones(len(matrix), dtype=torch.float64, device=matrix.device)
    # the new variance makes the norm's scale 1: the divisor equals the weight, or is 1 without a weight
    tensors = {
        "running_mean": matrix @ (scale * norm.running_mean.double()),
        "running_var": ones if norm.affine else ones - norm.eps,
    }
    if norm.affine:
        tensors["weight"] = (ones + norm.eps).sqrt()
    if norm.bias is not None:
        tensors["bias"] = matrix @ norm.bias.detach().double()
    return into_producer(producer, matrix * scale), _with(norm, **tensors)


def resized(layer: nn.Module, shape: Sequence[int]) -> nn.Module:
    """Return a copy of a layer whose weight has another shape; its values are zeros until weights are loaded.

    The other tensors take the leading dimensions of `shape`.
    """
    if not isinstance(layer, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
        raise TypeError(f"an adapter cannot be folded into a {type(layer).__name__}")
    ndims = {name: t.ndim for name, t in (*layer.named_parameters(), *layer.named_buffers()) if t.ndim}
    return _with(layer, **{name: torch.zeros(shape[:ndim]) for name, ndim in ndims.items()})


def _with(layer: L, **tensors: Tensor) -> L:
    """Return a copy of a layer with these tensors, and with its numbers of inputs and outputs updated."""
    result = copy.deepcopy(layer)
    for name, tensor in tensors.items():
        old = getattr(layer, name)
        value = tensor.to(old)
        setattr(result, name, nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value)
    if isinstance(result, nn.Conv2d):
        result.out_channels, result.in_channels = result.weight.shape[:2]
    elif isinstance(result, nn.Linear):
        result.out_features, result.in_features = result.weight.shape
    elif isinstance(result, nn.BatchNorm2d) and result.running_mean is not None:
        result.num_features = len(result.running_mean)
    return result
