"""Traced + positions -> blocks, with join(split(net))(x) == net(x) bit for bit.

A block is a graph over the network's own modules: training a block trains the network.
"""

import operator
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import fx, nn

from graftcli.errors import PairError
from graftcli.models.cuts.positions import Position, depends_on_images
from graftcli.models.tracing.trace import Traced, same


def split(traced: Traced, at: Sequence[Position]) -> list[fx.GraphModule]:
    """One module a block, in order; each reads the tensor at the cut before it and returns the one at the next."""
    bounds = [0, *(position.index for position in at), len(traced.nodes)]
    inputs = [traced.source, *(position.node for position in at)]
    moving = depends_on_images(traced)
    graphs = [
        _Cutting(traced, moving, entry).copy(start, stop)
        for entry, (start, stop) in zip(inputs, pairwise(bounds), strict=True)
    ]
    blocks = [fx.GraphModule(traced.root, graph) for graph in graphs]
    _prove(traced, blocks)
    return blocks


def join(blocks: Sequence[nn.Module]) -> nn.Sequential:
    return nn.Sequential(*blocks)


def _prove(traced: Traced, blocks: Sequence[fx.GraphModule]) -> None:
    """Law 1, on other images than the network was traced with, and on another number of them.

    A block that writes into its input gets a copy of it first, for the input is remembered.
    """
    count, *shape = traced.example.shape
    images = torch.randn(count + 1, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, value = traced.module(images.clone()), images
        for block in blocks:
            version = value._version
            try:
                result = block(value)
            except Exception as error:  # what a graph raises that took sizes of the example for sizes of all images
                raise _not_the_whole(traced, blocks) from error
            if value._version != version:
                _clone_first(block)
            value = result
    if not same(value, expected):
        raise _not_the_whole(traced, blocks)


def _not_the_whole(traced: Traced, blocks: Sequence[fx.GraphModule]) -> PairError:
    return PairError(
        f"`{type(traced.module).__name__}` cut into {len(blocks)} blocks computes something else than the whole.",
        "Choose other cuts with --split-teacher or --split-student; `graftcli inspect --all` lists them.",
    )


def _clone_first(block: fx.GraphModule) -> None:
    source = next(node for node in block.graph.nodes if node.op == "placeholder")
    with block.graph.inserting_after(source):
        copy = block.graph.call_method("clone", (source,))
    source.replace_all_uses_with(copy, delete_user_cb=lambda user: user is not copy)
    block.recompile()


class _Cutting:
    """Copies one range of a graph into a graph of its own."""

    def __init__(self, traced: Traced, moving: set[fx.Node], entry: fx.Node) -> None:
        self.traced = traced
        self.moving = moving
        self.graph = fx.Graph()
        self.entry = self.graph.placeholder("x")
        self.known: dict[fx.Node, Any] = {entry: self.entry}

    def copy(self, start: int, stop: int) -> fx.Graph:
        nodes = self.traced.nodes[start:stop]
        for node in nodes:
            if node.op not in ("placeholder", "output"):
                self._value(node)
        last = nodes[-1]
        self.graph.output(self._value(last.args[0] if last.op == "output" else last))
        return self.graph

    def _value(self, node: Any) -> Any:
        """What stands for a node of the whole graph in this block."""
        if node not in self.known:
            again = self._told(node) if self._asks_the_past(node) else self.graph.node_copy(node, self._value)
            self.known[node] = again
        return self.known[node]

    def _asks_the_past(self, node: fx.Node) -> bool:
        """Whether this is the size of a tensor that is not alive in this block."""
        past = (n for n in node.all_input_nodes if n in self.moving and n not in self.known)
        return node in self.traced.sizes and next(past, None) is not None

    def _told(self, node: fx.Node) -> Any:
        """The size of a tensor of the past: batch, device and dtype as the block's input has them, else as measured."""
        value, example = self.traced.sizes[node], self.traced.example
        if isinstance(value, torch.device) or value is example.dtype:
            return self.graph.call_function(getattr, (self.entry, "device" if value is not example.dtype else "dtype"))
        asked = self.traced.shapes.get(node.all_input_nodes[0])
        if value == asked and value[0] == example.shape[0]:
            return (self._batch(), *value[1:])
        dims = (*node.args[1:], *node.kwargs.values())
        if node.target == "size" and asked is not None and dims in ((0,), (-len(asked),)) and value == example.shape[0]:
            return self._batch()
        return value

    def _batch(self) -> fx.Node:
        shape = self.graph.call_function(getattr, (self.entry, "shape"))
        return self.graph.call_function(operator.getitem, (shape, 0))
