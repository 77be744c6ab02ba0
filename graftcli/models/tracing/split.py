"""Split a traced network into blocks at positions, so that join(split(net))(x) == net(x), bit for bit.

A block is a graph over the modules of the network: training a block trains the network.
"""

import operator
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import fx, nn
from torch.fx.node import Argument

from graftcli.errors import PairError
from graftcli.models.cuts.positions import Position, depends_on_images
from graftcli.models.tracing.trace import Traced, identical


def split(traced: Traced, cuts: Sequence[Position]) -> list[fx.GraphModule]:
    """One module per block, in order; each maps the tensor at its first cut to the tensor at its last cut."""
    bounds = [0, *(position.index for position in cuts), len(traced.nodes)]
    inputs = [traced.source, *(position.node for position in cuts)]
    image_dependent = depends_on_images(traced)
    graphs = [
        _BlockCopier(traced, image_dependent, entry).copy(start, stop)
        for entry, (start, stop) in zip(inputs, pairwise(bounds), strict=True)
    ]
    blocks = [fx.GraphModule(traced.root, graph) for graph in graphs]
    _check(traced, blocks)
    return blocks


def join(blocks: Sequence[nn.Module]) -> nn.Sequential:
    """The network that runs the blocks one after another."""
    return nn.Sequential(*blocks)


def _check(traced: Traced, blocks: Sequence[fx.GraphModule]) -> None:
    """Check that the blocks compute the network's function, on other images and another batch size than in tracing.

    A block that modifies its input gets a copy of it, because block inputs are cached.
    """
    count, *shape = traced.example.shape
    images = torch.randn(count + 1, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, value = traced.module(images.clone()), images
        for block in blocks:
            version = value._version
            try:
                result = block(value)
            except Exception as error:  # a graph that depends on the batch size of the example
                raise _mismatch(traced, blocks) from error
            if value._version != version:
                _clone_first(block)
            value = result
    if not identical(value, expected):
        raise _mismatch(traced, blocks)


def _mismatch(traced: Traced, blocks: Sequence[fx.GraphModule]) -> PairError:
    return PairError(
        f"`{type(traced.module).__name__}` cut into {len(blocks)} blocks computes a different function than uncut.",
        "Choose other cuts with --split-teacher or --split-student (`graftcli inspect --all` lists them).",
    )


def _clone_first(block: fx.GraphModule) -> None:
    source = next(node for node in block.graph.nodes if node.op == "placeholder")
    with block.graph.inserting_after(source):
        copy = block.graph.call_method("clone", (source,))
    source.replace_all_uses_with(copy, delete_user_cb=lambda user: user is not copy)
    block.recompile()


class _BlockCopier:
    """Copies a range of a graph into a new graph."""

    def __init__(self, traced: Traced, image_dependent: set[fx.Node], entry: fx.Node) -> None:
        self.traced = traced
        self.image_dependent = image_dependent
        self.graph = fx.Graph()
        self.entry = self.graph.placeholder("x")
        self.copies: dict[fx.Node, Argument] = {entry: self.entry}

    def copy(self, start: int, stop: int) -> fx.Graph:
        nodes = self.traced.nodes[start:stop]
        for node in nodes:
            if node.op not in ("placeholder", "output"):
                self._value(node)
        last = nodes[-1].args[0] if nodes[-1].op == "output" else nodes[-1]
        assert isinstance(last, fx.Node)  # a traced network returns one tensor
        self.graph.output(self._value(last))
        return self.graph

    def _value(self, node: fx.Node) -> Argument:
        """The node or constant of this block that corresponds to a node of the whole graph."""
        if node not in self.copies:
            copied = (
                self._size_of_past(node) if self._is_size_of_past(node) else self.graph.node_copy(node, self._value)
            )
            self.copies[node] = copied
        return self.copies[node]

    def _is_size_of_past(self, node: fx.Node) -> bool:
        """Whether a node is the size of a tensor that this block does not have."""
        past = (n for n in node.all_input_nodes if n in self.image_dependent and n not in self.copies)
        return node in self.traced.sizes and next(past, None) is not None

    def _size_of_past(self, node: fx.Node) -> Argument:
        """The size of a tensor before this block: batch, device and dtype from the block's input, else as measured."""
        value, example = self.traced.sizes[node], self.traced.example
        if isinstance(value, torch.device) or value is example.dtype:
            return self.graph.call_function(getattr, (self.entry, "device" if value is not example.dtype else "dtype"))
        shape = self.traced.shapes.get(node.all_input_nodes[0])
        if shape is not None and value == shape and shape[0] == example.shape[0]:
            return (self._batch(), *shape[1:])
        dims = (*node.args[1:], *node.kwargs.values())
        if node.target == "size" and shape is not None and dims in ((0,), (-len(shape),)) and value == example.shape[0]:
            return self._batch()
        return value

    def _batch(self) -> fx.Node:
        shape = self.graph.call_function(getattr, (self.entry, "shape"))
        return self.graph.call_function(operator.getitem, (shape, 0))
