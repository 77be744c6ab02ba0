"""Find the positions of a graph: where a single tensor carries everything that the rest of the network needs.

Positions follow from liveness and measured shapes, never from names or declared strides.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from torch import fx, nn

from graftcli.models.cuts import foldability
from graftcli.models.tracing.trace import Traced

Layout = Literal["NCHW", "NHWC", "tokens"]
_CHANNEL_DIM: dict[Layout, int] = {"NCHW": 1, "NHWC": 3, "tokens": 2}


@dataclass(frozen=True)
class Position:
    """The point after `node`, where only its value is alive."""

    traced: Traced = field(repr=False)
    node: fx.Node
    index: int  # number of nodes executed before this position
    name: str  # "layer1"
    depth: int  # depth in the module tree
    shape: tuple[int, ...]  # without the batch dimension
    layout: Layout
    size: tuple[int, int]  # height and width of the feature map
    prefix: int = 0  # number of tokens without a spatial location (class token, registers)

    @property
    def channel_dim(self) -> int:
        """The channel dimension, counting the batch dimension."""
        return _CHANNEL_DIM[self.layout]

    @property
    def channels(self) -> int:
        """The number of channels of the tensor."""
        return self.shape[self.channel_dim - 1]

    @property
    def nonnegative(self) -> bool:
        """Whether its values are never negative, as after a ReLU."""
        return self.node in self.traced.nonnegative

    @cached_property
    def forwards(self) -> foldability.Fold:
        """The layers after the position that an adapter folds into, or what prevents it."""
        return foldability.forwards(self.traced, self.node, self.channel_dim)

    @cached_property
    def backwards(self) -> foldability.Fold:
        """The layer before the position that an adapter folds into, or what prevents it."""
        return foldability.backwards(self.traced, self.node, self.channel_dim)

    @property
    def foldable(self) -> bool:
        """Whether an adapter folds in at least one direction."""
        return bool(self.forwards) or bool(self.backwards)


def needs_adapter(teacher: Position, student: Position) -> bool:
    """Whether the student's features cannot match the teacher's without an adapter.

    Their number of channels differs, or they are never negative although the teacher's can be.
    """
    return teacher.channels != student.channels or (student.nonnegative and not teacher.nonnegative)


def positions(traced: Traced) -> list[Position]:
    """All positions of a network, in order."""
    image = traced.shapes[traced.source]
    return [
        position
        for index, node in _bottlenecks(traced)
        if (position := _position(traced, index, node, image)) is not None
    ]


def _bottlenecks(traced: Traced) -> Iterator[tuple[int, fx.Node]]:
    """The nodes after which no other tensor that depends on the images is alive; sizes can be recomputed."""
    order = {node: i for i, node in enumerate(traced.graph.nodes)}
    image_dependent = depends_on_images(traced)
    last_use = {node: max(map(order.__getitem__, _users(traced, node)), default=-1) for node in image_dependent}
    needed_until = -1  # the last use of any value computed so far
    for node, i in order.items():
        is_candidate = node in image_dependent and node in traced.shapes and node.op not in ("placeholder", "output")
        if is_candidate and needed_until <= i:
            yield i + 1, node
        needed_until = max(needed_until, last_use.get(node, -1))


def _users(traced: Traced, node: fx.Node) -> list[fx.Node]:
    """The nodes that read the value; nodes that read only its shape are left out."""
    return [user for user in node.users if user not in traced.sizes]


def depends_on_images(traced: Traced) -> set[fx.Node]:
    """The nodes whose values depend on the images; all others can be recomputed from weights and sizes."""
    dependent = {traced.source}
    for node in traced.graph.nodes:
        if node not in traced.sizes and any(n in dependent for n in node.all_input_nodes):
            dependent.add(node)
    return dependent


def _position(traced: Traced, index: int, node: fx.Node, image: tuple[int, ...]) -> Position | None:
    shape = traced.shapes[node]
    name = traced.end_name(node)
    if shape[0] != image[0]:
        return None
    feature_map = as_map(traced, node, shape, image)
    if feature_map is None:
        return None
    layout, size, prefix = feature_map
    return Position(traced, node, index, name, name.count("."), shape[1:], layout, size, prefix)


def as_map(
    traced: Traced, node: fx.Node, shape: tuple[int, ...], image: tuple[int, ...]
) -> tuple[Layout, tuple[int, int], int] | None:
    """The layout, resolution and number of prefix tokens of a feature map; None if the tensor is none."""
    if len(shape) == 4:
        first, last = (shape[2], shape[3]), (shape[1], shape[2])
        fits = [_matches_image(first, image), _matches_image(last, image)]
        if not any(fits):
            return None
        channels_last = _is_channels_last(traced, node) if all(fits) else fits[1]
        return ("NHWC", last, 0) if channels_last else ("NCHW", first, 0)
    if len(shape) == 3 and not (_grid(shape[2], image) and _channels_nearby(traced, node, shape[1:]) == shape[1]):
        for prefix in range(6):
            if (grid := _grid(shape[1] - prefix, image)) is not None:
                return "tokens", grid, prefix
    return None


def _matches_image(size: tuple[int, int], image: tuple[int, ...]) -> bool:
    """Whether a size is the image size divided by one factor in both dimensions, up to rounding."""
    ratios = [image[2] / size[0], image[3] / size[1]]
    return max(ratios) <= min(ratios) * 1.25 or (max(size) <= 2 and min(size) == 1)


def _grid(tokens: int, image: tuple[int, ...]) -> tuple[int, int] | None:
    height, width = image[2], image[3]
    for stride in range(1, min(height, width) + 1):
        if (height // stride) * (width // stride) == tokens:
            return height // stride, width // stride
    return None


def _is_channels_last(traced: Traced, node: fx.Node) -> bool:
    """Decide the layout of a tensor with equal dimensions by the nearest layers."""
    for near in _nearby(traced, node):
        module = traced.module_of(near)
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            return False
        if isinstance(module, nn.Linear | nn.LayerNorm):
            return True
    return False


def _channels_nearby(traced: Traced, node: fx.Node, extents: Sequence[int]) -> int | None:
    """Decide which of two extents is the number of channels, by the shapes of the nearest weights."""
    for near in _nearby(traced, node):
        module = traced.module_of(near)
        weights = list(module.parameters(recurse=False)) if module is not None else []
        known = {extent for weight in weights for extent in weight.shape[:2]}
        if near.op == "get_attr":
            known = set(traced.shapes[near][-2:])
        matches = [extent for extent in extents if extent in known]
        if len(matches) == 1:
            return matches[0]
    return None


def _nearby(traced: Traced, node: fx.Node) -> Iterator[fx.Node]:
    """The nodes connected to a node, nearest first."""
    seen, queue = {node}, deque([node])
    while queue:
        current = queue.popleft()
        yield current
        neighbors = [n for n in (*current.users, *current.all_input_nodes) if n not in seen and n in traced.shapes]
        seen.update(neighbors)
        queue.extend(neighbors)
