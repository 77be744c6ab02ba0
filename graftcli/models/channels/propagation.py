"""A graph, run on the names of channels in place of numbers: who makes, carries and reads which."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from graftcli.models.channel_selection import NORMS
from graftcli.models.channels.names import Names, carried, laid_out, layer_of, met, single, spread, start, tensors
from graftcli.models.tracing.trace import Traced

IMAGES = "the images"  # what makes the channels that the network is given

# what only puts entries elsewhere, and does so with names too
_MOVES = (
    *("cat", "concat", "concatenate", "stack", "chunk", "split", "tensor_split", "unbind", "getitem", "select"),
    *("flatten", "unflatten", "reshape", "view", "squeeze", "unsqueeze", "expand", "expand_as", "contiguous", "clone"),
    *("permute", "transpose", "movedim", "swapaxes", "swapdims", "roll", "flip", "repeat", "repeat_interleave"),
    *("pixel_shuffle", "pixel_unshuffle", "channel_shuffle"),
)
_JOINS = (
    *("add", "iadd", "add_", "sub", "isub", "sub_", "mul", "imul", "mul_", "truediv", "div", "div_"),
    *("maximum", "minimum", "where", "lerp"),
)
_MOVING_MODULES = (nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, nn.ZeroPad2d)


class ChannelPropagation(fx.Interpreter):
    """Runs a graph on tensors in which each entry is the name of the channel that it belongs to."""

    def __init__(self, traced: Traced) -> None:
        copied = fx.GraphModule(traced.root, traced.graph)
        super().__init__(copied)
        self.traced, self.names = traced, Names()
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
        given = tensors((args, kwargs))
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
            result = getattr(self, n.op)(n.target, *laid_out((args, kwargs)))
            if name == "getitem" and isinstance(result, Tensor):
                self.parts[self.traced.paths[self.known[n]]] = set(map(int, result.unique().tolist()))
            return result
        if name == "pad":
            return F.pad(args[0], *start((*args[1:], *kwargs.values())))
        if name in ("mean", "amax"):
            amax = "amax" if n.op == "call_method" else torch.amax
            return self._agreed(partial(getattr(self, n.op), amax), args, kwargs)
        if name in ("linear", "conv2d") and (path := layer_of(n)):
            return self._module(path, given[:1], shape or ())
        if name == "layer_norm":
            return self._joined(given, shape or ())
        if name == "batch_norm":
            return self._joined([given[0], *(value[:, None, None] for value in given[1:])], shape or ())
        if name in _JOINS and len(given) > 1:
            return self._joined(given, shape or ())
        return carried(given, shape or ())

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
                return spread(names, shape, 1)
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
        return carried(given, shape)

    def _read_and_made(self, path: str, value: Tensor, dim: int, shape: tuple[int, ...]) -> Tensor:
        self._put(self.reads, path, self._column(value, dim))
        return self._made_by(path, shape, 1 if dim == 1 and len(shape) == 4 else len(shape) - 1)

    def _made_by(self, path: str, shape: tuple[int, ...], dim: int) -> Tensor:
        """A layer that runs twice makes the same channels twice."""
        if path not in self.made:
            self.made[path] = self.gives[path] = self.names.fresh(shape[dim])
        return spread(torch.tensor(self.made[path], dtype=torch.float64), shape, dim)

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
        return spread(torch.tensor(self.gives[path], dtype=torch.float64), tuple(value.shape), dims[0])

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
            pairs = {tuple(map(self.names.root, pair)) for pair in met(result, value.expand(shape))}
            for one, other in single(pairs) if self._spreads(given[0], value, shape) else sorted(pairs):
                self.names.join(one, other)
            result = torch.where(result == 0, value.expand(shape), result)
        return result

    @staticmethod
    def _spreads(one: Tensor, other: Tensor, shape: tuple[int, ...]) -> bool:
        return tuple(one.shape) != shape or tuple(other.shape) != shape
