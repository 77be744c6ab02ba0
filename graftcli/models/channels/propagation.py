"""Run a graph on channel names instead of activations, to find which layers produce, carry and read which channels."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from graftcli.models.channel_selection import NORMS
from graftcli.models.channels.names import (
    Names,
    broadcast,
    contiguous_tensors,
    elementwise,
    layer_of_weight,
    name_tensors,
    one_to_one,
    pad_arguments,
    paired_names,
)
from graftcli.models.tracing.trace import Traced

IMAGES = "the images"  # the producer of the input channels

# operations that only move entries, and therefore work on names
_MOVING_OPS = (
    *("cat", "concat", "concatenate", "stack", "chunk", "split", "tensor_split", "unbind", "getitem", "select"),
    *("flatten", "unflatten", "reshape", "view", "squeeze", "unsqueeze", "expand", "expand_as", "contiguous", "clone"),
    *("permute", "transpose", "movedim", "swapaxes", "swapdims", "roll", "flip", "repeat", "repeat_interleave"),
    *("pixel_shuffle", "pixel_unshuffle", "channel_shuffle"),
)
_COUPLING_OPS = (
    *("add", "iadd", "add_", "sub", "isub", "sub_", "mul", "imul", "mul_", "truediv", "div", "div_"),
    *("maximum", "minimum", "where", "lerp"),
)
_MOVING_MODULES = (nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, nn.ZeroPad2d)


class ChannelPropagation(fx.Interpreter):
    """Runs a graph on tensors whose entries are the names of their channels."""

    def __init__(self, traced: Traced) -> None:
        graph_copy = fx.GraphModule(traced.root, traced.graph)
        super().__init__(graph_copy)
        self.traced, self.names = traced, Names()
        # the copy has its nodes in the same order
        self.originals = dict(zip(graph_copy.graph.nodes, traced.nodes, strict=True))
        self.outputs: dict[str, list[int]] = {}
        self.gives: dict[str, list[int]] = {}
        self.reads: dict[str, list[int]] = {}
        self.groups: dict[str, int] = {}
        self.parts: dict[str, set[int]] = {}
        self.lost: set[int] = set()

    def run_node(self, n: fx.Node) -> object:
        """The names of the node's output, or its value if that is no tensor."""
        node = self.originals[n]
        if node in self.traced.sizes:
            return self.traced.sizes[node]
        shape = self.traced.shapes.get(node)
        if n.op == "placeholder":
            return self._output_of(IMAGES, shape or (), 1)
        if n.op == "get_attr":
            return self._parameter(str(n.target))
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n.op == "output":
            return args[0]
        inputs = name_tensors((args, kwargs))
        try:
            result = self._propagate(n, args, kwargs, inputs, shape)
        except Exception:  # the operation does not work on names: its channels cannot be followed
            result = None
        fits = shape is None or (isinstance(result, Tensor) and tuple(result.shape) == shape)
        if result is not None and fits:
            return result
        for value in inputs:
            self.lost |= set(map(int, value.unique().tolist()))
        return torch.zeros(shape, dtype=torch.float64) if shape is not None else None

    def _propagate(
        self,
        n: fx.Node,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        inputs: list[Tensor],
        shape: tuple[int, ...] | None,
    ) -> object:
        if n.op == "call_module":
            return self._module(str(n.target), inputs, shape or ())
        name = n.target if isinstance(n.target, str) else getattr(n.target, "__name__", "")
        if name in _MOVING_OPS:
            result = getattr(self, n.op)(n.target, *contiguous_tensors((args, kwargs)))
            if name == "getitem" and isinstance(result, Tensor):
                self.parts[self.traced.paths[self.originals[n]]] = set(map(int, result.unique().tolist()))
            return result
        if name == "pad":
            return F.pad(args[0], *pad_arguments((*args[1:], *kwargs.values())))
        if name in ("mean", "amax"):
            amax = "amax" if n.op == "call_method" else torch.amax
            return self._mean(partial(getattr(self, n.op), amax), args, kwargs)
        if name in ("linear", "conv2d") and (path := layer_of_weight(n)):
            return self._module(path, inputs[:1], shape or ())
        if name == "layer_norm":
            return self._couple(inputs, shape or ())
        if name == "batch_norm":
            return self._couple([inputs[0], *(value[:, None, None] for value in inputs[1:])], shape or ())
        if name in _COUPLING_OPS and len(inputs) > 1:
            return self._couple(inputs, shape or ())
        return elementwise(inputs, shape or ())

    @staticmethod
    def _mean(amax: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """The name of a mean: that of its entries if all agree, else 0."""
        largest, smallest = amax((args[0], *args[1:]), kwargs), -amax((-args[0], *args[1:]), kwargs)
        return torch.where(largest == smallest, largest, 0)

    # -- layers --------------------------------------------------------------------------------------------------

    def _module(self, path: str, inputs: list[Tensor], shape: tuple[int, ...]) -> Tensor | None:
        layer, value = self.traced.root.get_submodule(path), inputs[0]
        if len(inputs) > 1:
            return None
        if isinstance(layer, nn.Conv2d):
            if layer.groups > 1 and layer.groups == layer.in_channels:
                names = self._column(value, 1).repeat_interleave(layer.out_channels // layer.in_channels)
                self._record(self.gives, path, names)
                return broadcast(names, shape, 1)
            if layer.groups > 1:
                self.groups[path] = layer.groups
            return self._mix(path, value, 1, shape)
        if isinstance(layer, nn.Linear):
            return self._mix(path, value, value.dim() - 1, shape)
        if isinstance(layer, (*NORMS, nn.GroupNorm, nn.PReLU)):
            column = self._column(value, value.dim() - 1 if type(layer) is nn.LayerNorm else 1)
            parameter = next(layer.parameters(recurse=False), None)
            if parameter is not None and parameter.numel() == len(column):
                self._record(self.gives, path, column)
            return value
        if isinstance(layer, _MOVING_MODULES):
            moved: Tensor = layer(value)
            return moved
        if next(layer.parameters(), None) is not None:
            return None
        return elementwise(inputs, shape)

    def _mix(self, path: str, value: Tensor, dim: int, shape: tuple[int, ...]) -> Tensor:
        self._record(self.reads, path, self._column(value, dim))
        return self._output_of(path, shape, 1 if dim == 1 and len(shape) == 4 else len(shape) - 1)

    def _output_of(self, path: str, shape: tuple[int, ...], dim: int) -> Tensor:
        """The output of a layer; a layer that runs twice has the same output channels."""
        if path not in self.outputs:
            self.outputs[path] = self.gives[path] = self.names.fresh(shape[dim])
        return broadcast(torch.tensor(self.outputs[path], dtype=torch.float64), shape, dim)

    def _record(self, lists: dict[str, list[int]], path: str, names: Tensor) -> None:
        recorded = [int(name) for name in names]
        for first, second in zip(lists.setdefault(path, recorded), recorded, strict=True):
            self.names.join(first, second)

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
        return broadcast(torch.tensor(self.gives[path], dtype=torch.float64), tuple(value.shape), dims[0])

    # -- names of whole tensors ----------------------------------------------------------------------------------

    def _column(self, value: Tensor, dim: int) -> Tensor:
        """The name of each entry along a dimension; entries that share a weight become one channel."""
        rows = value.movedim(dim, 0).flatten(1)
        names = rows.amax(1)
        if not bool(((rows == names[:, None]) | (rows == 0)).all()):
            for row in rows:
                self._join_all(row.unique().tolist())
        return names

    def _join_all(self, names: Sequence[float]) -> None:
        nonzero = [int(name) for name in names if name]
        for name in nonzero[1:]:
            self.names.join(nonzero[0], name)

    def _couple(self, inputs: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor:
        result = inputs[0].expand(shape)
        for value in inputs[1:]:
            pairs = {tuple(map(self.names.root, pair)) for pair in paired_names(result, value.expand(shape))}
            for first, second in one_to_one(pairs) if self._broadcasts(inputs[0], value, shape) else sorted(pairs):
                self.names.join(first, second)
            result = torch.where(result == 0, value.expand(shape), result)
        return result

    @staticmethod
    def _broadcasts(first: Tensor, second: Tensor, shape: tuple[int, ...]) -> bool:
        return tuple(first.shape) != shape or tuple(second.shape) != shape
