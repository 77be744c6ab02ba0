"""graph -> positions: the places where ONE tensor carries everything that the network still needs.

Found from liveness and measured shapes, never from names or declared strides.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from torch import fx, nn

from graftcli.models.cuts import foldability as folds
from graftcli.models.tracing.trace import Traced

Layout = Literal["NCHW", "NHWC", "tokens"]
_CHANNEL_DIM: dict[Layout, int] = {"NCHW": 1, "NHWC": 3, "tokens": 2}


@dataclass(frozen=True)
class Position:
    """A place just after `node`, where only its value is alive."""

    traced: Traced = field(repr=False)
    node: fx.Node
    index: int  # how many nodes of the graph have run
    name: str  # "layer1"
    depth: int  # how deep in the module tree the place lies
    shape: tuple[int, ...]  # without the batch
    layout: Layout
    size: tuple[int, int]  # height and width of the map
    prefix: int = 0  # tokens that belong to no place (class token, registers)

    @property
    def channel_dim(self) -> int:
        """The channels' dimension, the batch counted."""
        return _CHANNEL_DIM[self.layout]

    @property
    def channels(self) -> int:
        return self.shape[self.channel_dim - 1]

    @cached_property
    def forwards(self) -> folds.Fold:
        return folds.forwards(self.traced, self.node, self.channel_dim)

    @cached_property
    def backwards(self) -> folds.Fold:
        return folds.backwards(self.traced, self.node, self.channel_dim)

    @property
    def foldable(self) -> bool:
        return bool(self.forwards) or bool(self.backwards)


def positions(traced: Traced) -> list[Position]:
    """Every place that qualifies as a cut, in order."""
    image = traced.shapes[traced.source]
    return [
        position
        for index, node in _bottlenecks(traced)
        if (position := _position(traced, index, node, image)) is not None
    ]


def _bottlenecks(traced: Traced) -> Iterator[tuple[int, fx.Node]]:
    """The nodes after which no other tensor that depends on the images is alive; mere sizes can be told again."""
    order = {node: i for i, node in enumerate(traced.graph.nodes)}
    moving = depends_on_images(traced)
    last_use = {node: max(map(order.__getitem__, _users(traced, node)), default=-1) for node in moving}
    needed_until = -1  # how far the values made before this node are still needed
    for node, i in order.items():
        carries = node in moving and node in traced.shapes and node.op not in ("placeholder", "output")
        if carries and needed_until <= i:
            yield i + 1, node
        needed_until = max(needed_until, last_use.get(node, -1))


def _users(traced: Traced, node: fx.Node) -> list[fx.Node]:
    """Who reads the value itself; who only asks for its shape can ask another tensor, or be told."""
    return [user for user in node.users if user not in traced.sizes]


def depends_on_images(traced: Traced) -> set[fx.Node]:
    """The nodes whose value needs the images' numbers; all others can be made again from weights and sizes."""
    found = {traced.source}
    for node in traced.graph.nodes:
        if node not in traced.sizes and any(n in found for n in node.all_input_nodes):
            found.add(node)
    return found


def _position(traced: Traced, index: int, node: fx.Node, image: tuple[int, ...]) -> Position | None:
    shape = traced.shapes[node]
    name = traced.end_name(node)
    if shape[0] != image[0]:
        return None
    seen = as_map(traced, node, shape, image)
    if seen is None:
        return None
    layout, size, prefix = seen
    return Position(traced, node, index, name, name.count("."), shape[1:], layout, size, prefix)


def as_map(
    traced: Traced, node: fx.Node, shape: tuple[int, ...], image: tuple[int, ...]
) -> tuple[Layout, tuple[int, int], int] | None:
    """How a tensor is laid out, how large its map is, how many tokens stand before it."""
    if len(shape) == 4:
        first, last = (shape[2], shape[3]), (shape[1], shape[2])
        fits = [_like(first, image), _like(last, image)]
        if not any(fits):
            return None
        channels_last = _is_channels_last(traced, node) if all(fits) else fits[1]
        return ("NHWC", last, 0) if channels_last else ("NCHW", first, 0)
    if len(shape) == 3 and not (_grid(shape[2], image) and _channels_nearby(traced, node, shape[1:]) == shape[1]):
        for prefix in range(6):
            if (grid := _grid(shape[1] - prefix, image)) is not None:
                return "tokens", grid, prefix
    return None


def _like(size: tuple[int, int], image: tuple[int, ...]) -> bool:
    """Whether a map may be the image made smaller by the same factor both ways, roundings apart."""
    ratios = [image[2] / size[0], image[3] / size[1]]
    return max(ratios) <= min(ratios) * 1.25 or (max(size) <= 2 and min(size) == 1)


def _grid(tokens: int, image: tuple[int, ...]) -> tuple[int, int] | None:
    height, width = image[2], image[3]
    for stride in range(1, min(height, width) + 1):
        if (height // stride) * (width // stride) == tokens:
            return height // stride, width // stride
    return None


def _is_channels_last(traced: Traced, node: fx.Node) -> bool:
    """The nearest layers to a cube of equal numbers know where its channels are."""
    for near in _nearby(traced, node):
        module = traced.module_of(near)
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            return False
        if isinstance(module, nn.Linear | nn.LayerNorm):
            return True
    return False


def _channels_nearby(traced: Traced, node: fx.Node, extents: Sequence[int]) -> int | None:
    """Which of two numbers is that of the channels: the one that the nearest weights have to do with."""
    for near in _nearby(traced, node):
        module = traced.module_of(near)
        weights = list(module.parameters(recurse=False)) if module is not None else []
        known = {extent for weight in weights for extent in weight.shape[:2]}
        if near.op == "get_attr":
            known = set(traced.shapes[near][-2:])
        found = [extent for extent in extents if extent in known]
        if len(found) == 1:
            return found[0]
    return None


def _nearby(traced: Traced, node: fx.Node) -> Iterator[fx.Node]:
    """The nodes that have to do with a node's value, the nearest first."""
    seen, queue = {node}, deque([node])
    while queue:
        near = queue.popleft()
        yield near
        around = [n for n in (*near.users, *near.all_input_nodes) if n not in seen and n in traced.shapes]
        seen.update(around)
        queue.extend(around)
