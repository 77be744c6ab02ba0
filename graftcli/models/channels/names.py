"""Names of channels, and tensors in which each entry is the name of the channel that it belongs to."""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor, fx


class Names:
    """Names of channels, some of which turn out to be one; the older name stands for both."""

    def __init__(self) -> None:
        self.parent = [0]

    def fresh(self, count: int) -> list[int]:
        start = len(self.parent)
        self.parent += range(start, start + count)
        return list(range(start, start + count))

    def root(self, name: int) -> int:
        while self.parent[name] != name:
            self.parent[name] = name = self.parent[self.parent[name]]
        return name

    def join(self, one: int, other: int) -> None:
        first, second = sorted((self.root(one), self.root(other)))
        if first:  # nobody is joined to nobody
            self.parent[second] = first

    def roots(self) -> list[int]:
        return [self.root(name) for name in range(len(self.parent))]


def tensors(values: Any) -> list[Tensor]:
    """The tensors of names among some arguments, wherever they are."""
    found: list[Tensor] = []
    fx.node.map_aggregate(
        values, lambda v: found.append(v) if isinstance(v, Tensor) and v.is_floating_point() else None
    )
    return found


def laid_out(values: Any) -> Any:
    """The same with every tensor of names laid out in memory, where a view can be made of it."""
    return fx.node.map_aggregate(values, lambda value: value.contiguous() if isinstance(value, Tensor) else value)


def layer_of(n: fx.Node) -> str:
    """The layer whose weight a function is given as it is."""
    weight = n.args[1] if len(n.args) > 1 else None
    path = str(weight.target) if isinstance(weight, fx.Node) and weight.op == "get_attr" else ""
    return path.removesuffix(".weight") if path.endswith(".weight") else ""


def start(padding: Sequence[Any]) -> Sequence[Any]:
    """Of F.pad's arguments the paddings and the mode: what is put there is nobody's channel."""
    return [value for value in padding[:2] if not isinstance(value, int | float)]


def spread(names: Tensor, shape: tuple[int, ...], dim: int) -> Tensor:
    """A tensor of a shape, in which each entry has the name of its place in one dimension."""
    return names.reshape([-1 if d == dim else 1 for d in range(len(shape))]).expand(shape)


def carried(given: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor | None:
    """What handles each entry, or each map, for itself."""
    if len(given) != 1:
        return None
    value = given[0]
    if tuple(value.shape) == shape:
        return value
    maps = value.dim() == len(shape) == 4 and tuple(value.shape[:2]) == shape[:2]
    if maps and bool((value == value[:, :, :1, :1]).all()):
        return value[:, :, :1, :1].expand(shape)
    return None


def met(one: Tensor, other: Tensor) -> list[tuple[int, int]]:
    """The names that meet in two tensors of one shape."""
    if one.dim() == 4 and all(bool((value == value[:1, :, :1, :1]).all()) for value in (one, other)):
        one, other = one[0, :, 0, 0], other[0, :, 0, 0]
    base = float(max(one.max(), other.max())) + 1
    pairs = [(int(key // base), int(key % base)) for key in (one * base + other).unique().tolist()]
    return [pair for pair in pairs if all(pair)]


def single(pairs: Collection[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Without those of a name that meets many: a gate for all channels of a place is none of them."""
    counts = [Counter(pair[side] for pair in pairs) for side in (0, 1)]
    return sorted(pair for pair in pairs if all(count[name] == 1 for count, name in zip(counts, pair, strict=True)))
