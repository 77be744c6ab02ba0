"""Channel names in a union-find structure, and tensors whose entries are the names of their channels."""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor, fx
from torch.fx.node import Argument, ArgumentT


class Names:
    """A union-find structure of channel names; the oldest name represents a set."""

    def __init__(self) -> None:
        self.parent = [0]

    def fresh(self, count: int) -> list[int]:
        """New names, each in its own set."""
        first = len(self.parent)
        self.parent += range(first, first + count)
        return list(range(first, first + count))

    def root(self, name: int) -> int:
        """The name that represents the set of `name`."""
        while self.parent[name] != name:
            self.parent[name] = name = self.parent[self.parent[name]]
        return name

    def join(self, name: int, other: int) -> None:
        """Unite the sets of two names."""
        first, second = sorted((self.root(name), self.root(other)))
        if first:  # 0 is not a channel
            self.parent[second] = first

    def roots(self) -> list[int]:
        """The representative of each name, by name."""
        return [self.root(name) for name in range(len(self.parent))]


def name_tensors(values: Argument) -> list[Tensor]:
    """The tensors of names in nested arguments."""
    collected: list[Tensor] = []
    fx.node.map_aggregate(
        values, lambda v: collected.append(v) if isinstance(v, Tensor) and v.is_floating_point() else None
    )
    return collected


def contiguous_tensors(values: ArgumentT) -> ArgumentT:
    """The arguments with contiguous tensors, which can be viewed."""
    return fx.node.map_aggregate(values, lambda value: value.contiguous() if isinstance(value, Tensor) else value)


def layer_of_weight(n: fx.Node) -> str:
    """The layer whose weight a function node receives unchanged; empty if there is none."""
    weight = n.args[1] if len(n.args) > 1 else None
    path = str(weight.target) if isinstance(weight, fx.Node) and weight.op == "get_attr" else ""
    return path.removesuffix(".weight") if path.endswith(".weight") else ""


def pad_arguments(padding: Sequence[Any]) -> Sequence[Any]:
    """F.pad's padding and mode, without the fill value, so that padding gets the name 0."""
    return [value for value in padding[:2] if not isinstance(value, int | float)]


def broadcast(names: Tensor, shape: tuple[int, ...], dim: int) -> Tensor:
    """Broadcast the names along one dimension to a shape."""
    return names.reshape([-1 if d == dim else 1 for d in range(len(shape))]).expand(shape)


def elementwise(inputs: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor | None:
    """The result of an operation on each entry, or on each feature map; None if it is neither."""
    if len(inputs) != 1:
        return None
    value = inputs[0]
    if tuple(value.shape) == shape:
        return value
    is_map = value.dim() == len(shape) == 4 and tuple(value.shape[:2]) == shape[:2]
    if is_map and bool((value == value[:, :, :1, :1]).all()):
        return value[:, :, :1, :1].expand(shape)
    return None


def paired_names(first: Tensor, second: Tensor) -> list[tuple[int, int]]:
    """The pairs of names at equal positions of two tensors of one shape."""
    if first.dim() == 4 and all(bool((value == value[:1, :, :1, :1]).all()) for value in (first, second)):
        first, second = first[0, :, 0, 0], second[0, :, 0, 0]
    base = float(max(first.max(), second.max())) + 1
    pairs = [(int(key // base), int(key % base)) for key in (first * base + second).unique().tolist()]
    return [pair for pair in pairs if all(pair)]


def one_to_one(pairs: Collection[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The pairs whose names occur in no other pair, because a gate shared by all channels is coupled to none."""
    counts = [Counter(pair[side] for pair in pairs) for side in (0, 1)]
    return sorted(pair for pair in pairs if all(count[name] == 1 for count, name in zip(counts, pair, strict=True)))
