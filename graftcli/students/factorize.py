"""Each convolution as a row of cheaper ones, by singular values: of low rank, or depthwise then pointwise."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from graftcli.errors import PairError

Row = nn.Sequential


def low_rank(module: nn.Module, share: float) -> dict[str, Row]:
    """Each convolution as two, of the same kernel to fewer channels and of 1x1 back, with `share` of its parameters.

    Of all such pairs theirs is the nearest: |W - W'|² is the sum of the squares of the singular values left out.
    """

    def pair(conv: nn.Conv2d) -> Row | None:
        outputs, columns = conv.weight.flatten(1).shape
        rank = int(share * conv.weight.numel() / (outputs + columns))
        return _low_rank(conv, rank) if rank else None

    return _replaced(module, pair, f"lowrank:{share:g}")


def decoupled(module: nn.Module, pairs: int) -> dict[str, Row]:
    """Each convolution wider than 1x1 as `pairs` depthwise ones for each channel that it reads, and a pointwise one.

    With as many pairs as the kernel has places the row would compute what the convolution did, and be no smaller.
    """

    def row(conv: nn.Conv2d) -> Row | None:
        places = conv.weight[0, 0].numel()
        return _decoupled(conv, min(pairs, places, conv.out_channels)) if places > 1 else None

    return _replaced(module, row, f"decouple:{pairs}" if pairs > 1 else "decouple")


@torch.no_grad()
def _replaced(module: nn.Module, row: Callable[[nn.Conv2d], Row | None], spec: str) -> dict[str, Row]:
    """The rows of all convolutions that they make smaller, by path."""
    found = {path: made for path, conv in _plain_convolutions(module) if (made := row(conv)) and _saves(made, conv)}
    if not found:
        raise PairError(
            f"no convolution of `{type(module).__name__}` becomes smaller by {spec}.",
            "Narrow the network instead: teacher*0.5, or prune:l1=0.5.",
        )
    return found


def _plain_convolutions(module: nn.Module) -> Iterator[tuple[str, nn.Conv2d]]:
    """By exact type: a subclass may do more than its weight says."""
    for path, layer in module.named_modules():
        if type(layer) is nn.Conv2d and layer.groups == 1 and layer.padding_mode == "zeros":
            yield path, layer


def _saves(row: Row, conv: nn.Conv2d) -> bool:
    before, after = (sum(p.numel() for p in layer.parameters()) for layer in (conv, row))
    return after < before


def _low_rank(conv: nn.Conv2d, rank: int) -> Row:
    left, right = _halves(conv.weight.flatten(1), rank)
    first = _like(conv, rank, groups=1)
    first.weight.copy_(right.view(rank, *conv.weight.shape[1:]))
    return Row(first, _pointwise(conv, left))


def _decoupled(conv: nn.Conv2d, pairs: int) -> Row:
    """For each channel that is read, its slice of the weight [outputs, places] as a sum of `pairs` products."""
    outputs, inputs, *kernel = conv.weight.shape
    left, right = _halves(conv.weight.movedim(1, 0).flatten(2), pairs)
    first = _like(conv, inputs * pairs, groups=inputs)
    first.weight.copy_(right.reshape(inputs * pairs, 1, *kernel))
    return Row(first, _pointwise(conv, left.movedim(1, 0).reshape(outputs, inputs * pairs)))


def _halves(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """left @ right: the nearest product of this rank, both halves of one size."""
    left, sizes, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    root = sizes[..., :rank].sqrt()
    return left[..., :rank] * root.unsqueeze(-2), root.unsqueeze(-1) * right[..., :rank, :]


def _like(conv: nn.Conv2d, outputs: int, groups: int) -> nn.Conv2d:
    """A convolution that goes over the map as `conv` does."""
    kernel, stride, dilation = ((pair[0], pair[1]) for pair in (conv.kernel_size, conv.stride, conv.dilation))
    padding = conv.padding if isinstance(conv.padding, str) else (conv.padding[0], conv.padding[1])
    return nn.Conv2d(conv.in_channels, outputs, kernel, stride, padding, dilation, groups, bias=False)


def _pointwise(conv: nn.Conv2d, weight: Tensor) -> nn.Conv2d:
    """The 1x1 that gives the channels of `conv`, with its bias."""
    made = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=conv.bias is not None)
    made.weight.copy_(weight[:, :, None, None])
    if conv.bias is not None and made.bias is not None:
        made.bias.copy_(conv.bias)
    return made
