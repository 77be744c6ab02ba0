"""Factorize convolutions into cheaper ones by SVD: low rank, or depthwise then pointwise."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from graftcli.errors import PairError

Layers = nn.Sequential


def factorize_low_rank(module: nn.Module, share: float) -> dict[str, Layers]:
    """Factorize each convolution into one with fewer channels and a 1x1, with `share` of its parameters.

    The pair is the best approximation: |W - W'|² is the sum of the squared singular values left out.
    """

    def factorization(conv: nn.Conv2d) -> Layers | None:
        outputs, columns = conv.weight.flatten(1).shape
        rank = int(share * conv.weight.numel() / (outputs + columns))
        return _low_rank(conv, rank) if rank else None

    return _factorize(module, factorization, f"lowrank:{share:g}")


def factorize_depthwise(module: nn.Module, pairs: int) -> dict[str, Layers]:
    """Factorize each convolution larger than 1x1 into `pairs` depthwise filters per input channel and a pointwise one.

    With as many pairs as the kernel has entries, the result would be exact but no smaller.
    """

    def factorization(conv: nn.Conv2d) -> Layers | None:
        entries = conv.weight[0, 0].numel()
        return _depthwise(conv, min(pairs, entries, conv.out_channels)) if entries > 1 else None

    return _factorize(module, factorization, f"decouple:{pairs}" if pairs > 1 else "decouple")


@torch.no_grad()
def _factorize(module: nn.Module, factorization: Callable[[nn.Conv2d], Layers | None], spec: str) -> dict[str, Layers]:
    """The factorizations that save parameters, by path."""
    factorized = {
        path: layers
        for path, conv in _plain_convolutions(module)
        if (layers := factorization(conv)) and _is_smaller(layers, conv)
    }
    if not factorized:
        raise PairError(
            f"{spec} makes no convolution of `{type(module).__name__}` smaller.",
            "Narrow the network instead: teacher*0.5, or prune:l1=0.5.",
        )
    return factorized


def _plain_convolutions(module: nn.Module) -> Iterator[tuple[str, nn.Conv2d]]:
    """The plain convolutions, by exact type: a subclass may compute something else."""
    for path, layer in module.named_modules():
        if type(layer) is nn.Conv2d and layer.groups == 1 and layer.padding_mode == "zeros":
            yield path, layer


def _is_smaller(layers: Layers, conv: nn.Conv2d) -> bool:
    before, after = (sum(p.numel() for p in layer.parameters()) for layer in (conv, layers))
    return after < before


def _low_rank(conv: nn.Conv2d, rank: int) -> Layers:
    left, right = _svd_factors(conv.weight.flatten(1), rank)
    first = _first_convolution(conv, rank, groups=1)
    first.weight.copy_(right.view(rank, *conv.weight.shape[1:]))
    return Layers(first, _pointwise(conv, left))


def _depthwise(conv: nn.Conv2d, pairs: int) -> Layers:
    """Factorize the weight slice [outputs, kernel] of each input channel into `pairs` products."""
    outputs, inputs, *kernel = conv.weight.shape
    left, right = _svd_factors(conv.weight.movedim(1, 0).flatten(2), pairs)
    first = _first_convolution(conv, inputs * pairs, groups=inputs)
    first.weight.copy_(right.reshape(inputs * pairs, 1, *kernel))
    return Layers(first, _pointwise(conv, left.movedim(1, 0).reshape(outputs, inputs * pairs)))


def _svd_factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best approximation left @ right of this rank, with balanced factors."""
    left, sizes, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    root = sizes[..., :rank].sqrt()
    return left[..., :rank] * root.unsqueeze(-2), root.unsqueeze(-1) * right[..., :rank, :]


def _first_convolution(conv: nn.Conv2d, outputs: int, groups: int) -> nn.Conv2d:
    """A bias-free convolution with the geometry of `conv`."""
    kernel, stride, dilation = ((pair[0], pair[1]) for pair in (conv.kernel_size, conv.stride, conv.dilation))
    padding = conv.padding if isinstance(conv.padding, str) else (conv.padding[0], conv.padding[1])
    return nn.Conv2d(conv.in_channels, outputs, kernel, stride, padding, dilation, groups, bias=False)


def _pointwise(conv: nn.Conv2d, weight: Tensor) -> nn.Conv2d:
    """The 1x1 convolution with the outputs and the bias of `conv`."""
    pointwise = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=conv.bias is not None)
    pointwise.weight.copy_(weight[:, :, None, None])
    if conv.bias is not None and pointwise.bias is not None:
        pointwise.bias.copy_(conv.bias)
    return pointwise
