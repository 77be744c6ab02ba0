"""Which channels of a network are one and the same: its graph is run on the names of channels in place of numbers.

A layer that mixes what it reads makes channels of its own. Where two maps are added, or one scales the other, their
channels become one. Everything else hands channels on, wherever it puts them: behind a concatenation, a flatten or a
shuffle a reader still reads whoever made them.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from graftcli.nets.kept import NORMS
from graftcli.nets.trace import Traced

IMAGES = "the images"  # what makes the channels that the network is given

# what only puts entries elsewhere, and does so with names too
_MOVES = (
    *(
        "cat",
        "concat",
        "concatenate",
        "stack",
        "chunk",
        "split",
        "tensor_split",
        "unbind",
        "getitem",
        "select",
        "narrow",
    ),
    *("flatten", "unflatten", "reshape", "view", "squeeze", "unsqueeze", "expand", "expand_as", "contiguous", "clone"),
    *("permute", "transpose", "movedim", "swapaxes", "swapdims", "roll", "flip", "repeat", "repeat_interleave"),
    *("pixel_shuffle", "pixel_unshuffle", "channel_shuffle"),
)
_JOINS = (
    *("add", "iadd", "add_", "sub", "isub", "sub_", "mul", "imul", "mul_", "truediv", "div", "div_"),
    *("maximum", "minimum", "where", "lerp"),
)
_MOVING_MODULES = (nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, nn.ZeroPad2d)


@dataclass(frozen=True)
class Channels:
    """The channels of a network by number, from 1; 0 stands for one that nobody could follow."""

    gives: Mapping[str, tuple[int, ...]]  # by layer; of a single parameter, which channels its numbers belong to
    reads: Mapping[str, tuple[int, ...]]  # of layers that mix what they read
    groups: Mapping[str, int]  # of layers that mix what they read in groups
    parts: Mapping[str, tuple[int, ...]]  # what is taken out of a map, by the place where it is
    lost: frozenset[int]  # channels that also go where nobody could follow


def channels(traced: Traced) -> Channels:
    """Who makes, carries and reads which channels."""
    run = _Naming(traced)
    run.run(traced.example)
    roots = run.names.roots()

    def final(lists: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
        inside = (path for path in lists if path.rpartition(".")[0] in lists)  # a bias of a layer, beside the layer
        apart = lists.keys() - set(inside)
        return {path: tuple(roots[name] for name in lists[path]) for path in lists if path in apart}

    parts = {path: tuple(sorted({roots[name] for name in names} - {0})) for path, names in run.parts.items()}
    lost = frozenset(roots[name] for name in run.lost) - {0}
    return Channels(final(run.gives), final(run.reads), run.groups, parts, lost)


class _Names:
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


class _Naming(fx.Interpreter):
    """Runs a graph on tensors in which each entry is the name of the channel that it belongs to."""

    def __init__(self, traced: Traced) -> None:
        copied = fx.GraphModule(traced.root, traced.graph)
        super().__init__(copied)
        self.traced, self.names = traced, _Names()
        self.known = dict(zip(copied.graph.nodes, traced.nodes, strict=True))  # a copy's nodes come in the same order
        self.made: dict[str, list[int]] = {}
        self.gives: dict[str, list[int]] = {}
        self.reads: dict[str, list[int]] = {}
        self.groups: dict[str, int] = {}
        self.parts: dict[str, set[int]] = {}
        self.lost: set[int] = set()

    def run_node(self, n: fx.Node) -> Any:
        node = self.known[n]
        if node in self.traced.sizes:
            return self.traced.sizes[node]
        shape = self.traced.shapes.get(node)
        if n.op == "placeholder":
            return self._made_by(IMAGES, shape or (), 1)
        if n.op == "get_attr":
            return self._parameter(str(n.target))
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n.op == "output":
            return args[0]
        given = _tensors((args, kwargs))
        try:
            result = self._named(n, args, kwargs, given, shape)
        except Exception:  # whatever an operation says of names in place of numbers: then nobody can follow
            result = None
        if result is None or (shape is not None and tuple(result.shape) != shape):
            for value in given:
                self.lost |= set(map(int, value.unique().tolist()))
            return torch.zeros(shape, dtype=torch.float64) if shape is not None else None
        return result

    def _named(self, n: fx.Node, args: Any, kwargs: Any, given: list[Tensor], shape: tuple[int, ...] | None) -> Any:
        if n.op == "call_module":
            return self._module(str(n.target), given, shape or ())
        name = n.target if isinstance(n.target, str) else getattr(n.target, "__name__", "")
        if name in _MOVES:
            result = getattr(self, n.op)(n.target, *_laid_out((args, kwargs)))
            if name == "getitem" and isinstance(result, Tensor):
                self.parts[self.traced.paths[self.known[n]]] = set(map(int, result.unique().tolist()))
            return result
        if name == "pad":
            return F.pad(args[0], *_start((*args[1:], *kwargs.values())))
        if name in ("mean", "amax"):
            return self._agreed(
                partial(getattr(self, n.op), "amax" if n.op == "call_method" else torch.amax), args, kwargs
            )
        if name in ("linear", "conv2d") and (path := _layer_of(n)):
            return self._module(path, given[:1], shape or ())
        if name == "layer_norm":
            return self._joined(given, shape or ())
        if name == "batch_norm":
            return self._joined([given[0], *(value[:, None, None] for value in given[1:])], shape or ())
        if name in _JOINS and len(given) > 1:
            return self._joined(given, shape or ())
        return _carried(given, shape or ())

    @staticmethod
    def _agreed(amax: Callable[..., Tensor], args: Any, kwargs: Any) -> Tensor:
        """Of an average the name that all of it has."""
        most, least = amax((args[0], *args[1:]), kwargs), -amax((-args[0], *args[1:]), kwargs)
        return torch.where(most == least, most, 0)

    # -- layers --------------------------------------------------------------------------------------------------

    def _module(self, path: str, given: list[Tensor], shape: tuple[int, ...]) -> Tensor | None:
        layer, value = self.traced.root.get_submodule(path), given[0]
        if len(given) > 1:
            return None
        if isinstance(layer, nn.Conv2d):
            if layer.groups > 1 and layer.groups == layer.in_channels:
                names = self._column(value, 1).repeat_interleave(layer.out_channels // layer.in_channels)
                self._put(self.gives, path, names)
                return _spread(names, shape, 1)
            if layer.groups > 1:
                self.groups[path] = layer.groups
            return self._read_and_made(path, value, 1, shape)
        if isinstance(layer, nn.Linear):
            return self._read_and_made(path, value, value.dim() - 1, shape)
        if isinstance(layer, (*NORMS, nn.GroupNorm, nn.PReLU)):
            column = self._column(value, value.dim() - 1 if type(layer) is nn.LayerNorm else 1)
            own = next(layer.parameters(recurse=False), None)
            if own is not None and own.numel() == len(column):
                self._put(self.gives, path, column)
            return value
        if isinstance(layer, _MOVING_MODULES):
            moved: Tensor = layer(value)
            return moved
        if next(layer.parameters(), None) is not None:
            return None
        return _carried(given, shape)

    def _read_and_made(self, path: str, value: Tensor, dim: int, shape: tuple[int, ...]) -> Tensor:
        self._put(self.reads, path, self._column(value, dim))
        return self._made_by(path, shape, 1 if dim == 1 and len(shape) == 4 else len(shape) - 1)

    def _made_by(self, path: str, shape: tuple[int, ...], dim: int) -> Tensor:
        """A layer that runs twice makes the same channels twice."""
        if path not in self.made:
            self.made[path] = self.gives[path] = self.names.fresh(shape[dim])
        return _spread(torch.tensor(self.made[path], dtype=torch.float64), shape, dim)

    def _put(self, lists: dict[str, list[int]], path: str, names: Tensor) -> None:
        found = [int(name) for name in names]
        for one, other in zip(lists.setdefault(path, found), found, strict=True):
            self.names.join(one, other)

    def _parameter(self, path: str) -> Tensor:
        scope, _, name = path.rpartition(".")
        value: Tensor = getattr(self.traced.root.get_submodule(scope), name)
        if not value.is_floating_point():
            return value.cpu()
        dims = [dim for dim, extent in enumerate(value.shape) if extent > 1]
        if len(dims) != 1 or not isinstance(value, nn.Parameter):
            return torch.zeros(value.shape, dtype=torch.float64)
        if path not in self.gives:
            self.gives[path] = self.names.fresh(value.numel())
        return _spread(torch.tensor(self.gives[path], dtype=torch.float64), tuple(value.shape), dims[0])

    # -- names of whole tensors ----------------------------------------------------------------------------------

    def _column(self, value: Tensor, dim: int) -> Tensor:
        """The name of each entry of a dimension; what a layer reads with one weight is one channel."""
        rows = value.movedim(dim, 0).flatten(1)
        names = rows.amax(1)
        if not bool(((rows == names[:, None]) | (rows == 0)).all()):
            for row in rows:
                self._one(row.unique().tolist())
        return names

    def _one(self, names: Sequence[float]) -> None:
        found = [int(name) for name in names if name]
        for name in found[1:]:
            self.names.join(found[0], name)

    def _joined(self, given: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor:
        result = given[0].expand(shape)
        for value in given[1:]:
            met = {tuple(map(self.names.root, pair)) for pair in _met(result, value.expand(shape))}
            for one, other in _single(met) if self._spreads(given[0], value, shape) else sorted(met):
                self.names.join(one, other)
            result = torch.where(result == 0, value.expand(shape), result)
        return result

    @staticmethod
    def _spreads(one: Tensor, other: Tensor, shape: tuple[int, ...]) -> bool:
        return tuple(one.shape) != shape or tuple(other.shape) != shape


def _tensors(values: Any) -> list[Tensor]:
    found: list[Tensor] = []
    fx.node.map_aggregate(
        values, lambda v: found.append(v) if isinstance(v, Tensor) and v.is_floating_point() else None
    )
    return found


def _laid_out(values: Any) -> Any:
    """The same with every tensor of names laid out in memory, where a view can be made of it."""
    return fx.node.map_aggregate(values, lambda value: value.contiguous() if isinstance(value, Tensor) else value)


def _layer_of(n: fx.Node) -> str:
    """The layer whose weight a function is given as it is."""
    weight = n.args[1] if len(n.args) > 1 else None
    path = str(weight.target) if isinstance(weight, fx.Node) and weight.op == "get_attr" else ""
    return path.removesuffix(".weight") if path.endswith(".weight") else ""


def _start(padding: Sequence[Any]) -> Sequence[Any]:
    """Of F.pad's arguments the paddings and the mode: what is put there is nobody's channel."""
    return [value for value in padding[:2] if not isinstance(value, int | float)]


def _spread(names: Tensor, shape: tuple[int, ...], dim: int) -> Tensor:
    """A tensor of a shape, in which each entry has the name of its place in one dimension."""
    return names.reshape([-1 if d == dim else 1 for d in range(len(shape))]).expand(shape)


def _carried(given: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor | None:
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


def _met(one: Tensor, other: Tensor) -> list[tuple[int, int]]:
    """The names that meet in two tensors of one shape."""
    if one.dim() == 4 and all(bool((value == value[:1, :, :1, :1]).all()) for value in (one, other)):
        one, other = one[0, :, 0, 0], other[0, :, 0, 0]
    base = float(max(one.max(), other.max())) + 1
    pairs = [(int(key // base), int(key % base)) for key in (one * base + other).unique().tolist()]
    return [pair for pair in pairs if all(pair)]


def _single(pairs: Collection[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Without those of a name that meets many: a gate for all channels of a place is none of them."""
    counts = [Counter(pair[side] for pair in pairs) for side in (0, 1)]
    return sorted(pair for pair in pairs if all(count[name] == 1 for count, name in zip(counts, pair, strict=True)))
