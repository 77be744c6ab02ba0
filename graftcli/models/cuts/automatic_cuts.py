"""Choose cuts among positions: the best position next to each downsampling layer, or cuts into blocks of equal MACs.

Positions where adapters fold are preferred, then those highest in the module tree, then those nearest to the
downsampling layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import fx, nn

from graftcli.models.cuts.positions import Layout, Position, as_map, positions
from graftcli.models.tracing.trace import Traced

__all__ = [
    "Layout",
    "Position",
    "Shrink",
    "before_head",
    "cuts",
    "equal_work_cuts",
    "positions",
    "positions_beside",
    "shrinks",
]


@dataclass(frozen=True)
class Shrink:
    """A downsampling layer, with the positions of the resolution before it and of the resolution after it, in order."""

    node: fx.Node
    before: tuple[Position, ...]
    after: tuple[Position, ...]
    stage: bool  # whether the resolution before it is a stage, not part of the stem


_STEM_STRIDE = 4  # every resolution from this stride on is a stage
_STEM_SHARE = 0.1  # a smaller stride is a stage with this share of the MACs, if the first layer keeps the resolution
_TRIMMED_AREA = 0.65  # a feature map that keeps this share of its area only lost its border in a layer without padding
_MAX_LAYERS_BESIDE = 2  # largest number of layers between a cut and the downsampling layer


def shrinks(traced: Traced) -> list[Shrink]:
    """The downsampling layers of a network, including the stem's, without the final pooling."""
    candidates = before_head(traced, positions(traced))
    total = max(1, sum(traced.macs.values()))
    order = {node: i for i, node in enumerate(traced.graph.nodes)}
    downsampling: list[Shrink] = []
    width = traced.shapes[traced.source][2]
    keeps_resolution = bool(candidates) and width == candidates[0].size[0]  # the first layer keeps the resolution
    for before, after in pairwise(_by_resolution(candidates)):
        node = _shrinking_node(traced, before[-1], after[0])
        if _area(after[0]) >= _area(before[-1]) or _is_only_head(traced, order[node] + 1):
            continue
        # MACs of the downsampling layer itself do not count
        stage_start = order[downsampling[-1].node] + 1 if downsampling else 0
        work = sum(traced.macs.get(n, 0) for n in traced.nodes[stage_start : before[-1].index])
        is_large = width / before[0].size[0] < _STEM_STRIDE - 0.5
        stage = not is_large or (keeps_resolution and work >= _STEM_SHARE * total)
        downsampling.append(Shrink(node, tuple(before), tuple(after), stage))
    return downsampling


def _area(position: Position) -> int:
    return position.size[0] * position.size[1]


def _by_resolution(candidates: Sequence[Position]) -> list[list[Position]]:
    runs: list[list[Position]] = []
    for position in candidates:
        if runs and _TRIMMED_AREA * _area(runs[-1][-1]) <= _area(position) <= _area(runs[-1][-1]):
            runs[-1].append(position)
        else:
            runs.append([position])
    return runs


def before_head(traced: Traced, candidates: Sequence[Position]) -> list[Position]:
    """The positions before the head: up to the last spatial layer, or with a feature map larger than 1x1."""
    last = 0
    for i, node in enumerate(traced.graph.nodes):
        if _is_spatial(traced, node):
            last = i
    return [position for position in candidates if position.index <= last or _area(position) > 1]


def _is_spatial(traced: Traced, node: fx.Node) -> bool:
    """Whether a layer combines several spatial locations, without reducing the feature map to one."""
    module = traced.module_of(node)
    if module is None or not node.all_input_nodes or len(traced.shapes.get(node.all_input_nodes[0], ())) != 4:
        return False
    if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
        return traced.shapes[node][-1] > 1
    extent = traced.shapes[node.all_input_nodes[0]][2:]
    convs = [m for m in module.modules() if isinstance(m, nn.Conv2d) and max(m.kernel_size) > 1]
    return any(max(conv.kernel_size) < max(extent) or conv.padding not in (0, (0, 0)) for conv in convs)


def _shrinking_node(traced: Traced, before: Position, after: Position) -> fx.Node:
    """The first node after `before` with the resolution of `after`."""
    image = traced.shapes[traced.source]
    for node in traced.nodes[before.index : after.index]:
        shape = traced.shapes.get(node)
        feature_map = as_map(traced, node, shape, image) if shape and shape[0] == image[0] else None
        if feature_map is not None and feature_map[1] == after.size:
            return node
    return after.node


def _layers_between(traced: Traced, start: int, stop: int) -> list[str]:
    """The paths of the layers with weights between two nodes, once per layer inside a leaf module."""
    modules = [(str(n.target), traced.module_of(n)) for n in traced.nodes[start:stop]]
    return [path for path, module in modules if module is not None for _ in range(_count_layers(module))]


def _count_layers(module: nn.Module) -> int:
    return sum(any(p.dim() > 1 for p in m.parameters(recurse=False)) for m in module.modules())


def _unit(traced: Traced, node: fx.Node) -> str:
    """The path, with a trailing dot, of the innermost module around a node that is no container and no layer."""
    path = traced.paths[node]
    while path:
        path = path.rpartition(".")[0]
        module = traced.module.get_submodule(path)
        if not isinstance(module, nn.Sequential | nn.ModuleList) and _count_layers(module) > 1:
            break
    return f"{path}." if path else ""


def positions_beside(shrink: Shrink) -> list[Position]:
    """The positions next to a downsampling layer, best first: after a max-pool, before any other layer."""
    traced = shrink.before[0].traced
    index = traced.nodes.index(shrink.node)
    unit = _unit(traced, shrink.node)
    after_first = _is_max_pool(traced, shrink.node) and not _layers_between(traced, index + 1, shrink.after[0].index)
    ranked: list[tuple[tuple[int, ...], Position]] = []
    for other_side, group in ((after_first, shrink.before), (not after_first, shrink.after)):
        for position in group:
            start, stop = sorted((position.index, index if position.index <= index else index + 1))
            layers = _layers_between(traced, start, stop)
            outside = not all(f"{path}.".startswith(unit) for path in layers)
            nearest = position in (shrink.before[-1], shrink.after[0])  # the nearest position counts at any distance
            near = nearest or (len(layers) <= _MAX_LAYERS_BESIDE and not outside)
            if near and not _is_only_head(traced, position.index):
                ranked.append(
                    ((outside, *_rank(position, other_side), len(layers), abs(position.index - index)), position)
                )
    return [position for _, position in sorted(ranked, key=lambda pair: pair[0])]


def _rank(position: Position, other_side: bool) -> tuple[int, ...]:
    """Sort key, lowest first: foldable, on the preferred side, without prefix tokens, at the end of a module."""
    not_foldable, inside_module = not position.foldable, position.node not in position.traced.ends
    return not_foldable, not_foldable and inside_module, other_side, position.prefix, inside_module, position.depth


def _is_max_pool(traced: Traced, node: fx.Node) -> bool:
    module = traced.module_of(node)
    name = type(module).__name__ if module is not None else getattr(node.target, "__name__", str(node.target))
    return "max_pool" in name.lower() or "maxpool" in name.lower()


def cuts(traced: Traced) -> list[Position]:
    """The natural cuts of a network: the best position next to each downsampling layer that ends a stage."""
    chosen: list[Position] = []
    for shrink in shrinks(traced):
        choice = next((p for p in positions_beside(shrink) if not chosen or p.index > chosen[-1].index), None)
        if shrink.stage and choice is not None:
            chosen.append(choice)
    return chosen


def _is_only_head(traced: Traced, start: int) -> bool:
    """Whether all layers from a node on belong to the head: none is spatial or has an output larger than 1x1."""
    image = traced.shapes[traced.source]
    for node in traced.nodes[start:]:
        if _is_spatial(traced, node):
            return False
        module, shape = traced.module_of(node), traced.shapes.get(node, ())
        if module is None or not any(p.dim() > 1 for p in module.parameters()) or len(shape) < 3:
            continue
        feature_map = as_map(traced, node, shape, image)
        if feature_map is None or feature_map[1] != (1, 1):
            return False
    return True


def equal_work_cuts(traced: Traced, count: int) -> list[Position]:
    """The `count - 1` positions that cut a network of one resolution into blocks of nearly equal MACs, as high in the
    module tree as possible."""
    work = macs_before(traced)
    total = work[-1]
    candidates = [position for position in positions(traced) if 0 < work[position.index] < total]
    best: list[Position] = []
    best_share = 1.0
    for depth in sorted({position.depth for position in candidates}):
        chosen = equal_shares(_one_per_work(candidates, work, depth), work, 0, len(traced.nodes), count)
        marks = [0, *(work[position.index] for position in chosen), total]
        share = max(b - a for a, b in pairwise(marks)) / total
        if len(chosen) == count - 1 and share < best_share - 0.5 / count:
            best, best_share = chosen, share
    return best


def _one_per_work(candidates: Sequence[Position], work: Sequence[int], depth: int) -> list[Position]:
    """Among positions without MACs between them, keep the highest in the module tree, so that no block is empty."""
    best: dict[int, Position] = {}
    for position in sorted((p for p in candidates if p.depth <= depth), key=lambda p: (-p.depth, p.index)):
        best[work[position.index]] = position
    return sorted(best.values(), key=lambda p: p.index)


def equal_shares(
    candidates: Sequence[Position], work: Sequence[int], start: int, stop: int, count: int
) -> list[Position]:
    """The `count - 1` positions nearest to equal shares of the MACs between two nodes; fewer if there are fewer."""
    chosen: list[Position] = []
    remaining = list(candidates)
    for k in range(1, count):
        goal = work[start] + (work[stop] - work[start]) * k / count
        available = remaining[
            : max(1, len(remaining) - (count - 1 - k))
        ]  # leaves at least one position for each remaining share
        if available:
            chosen.append(min(available, key=lambda p: (abs(work[p.index] - goal), p.depth)))
            remaining = remaining[remaining.index(chosen[-1]) + 1 :]
    return chosen


def macs_before(traced: Traced) -> list[int]:
    """The MACs before each node, and in total at the end."""
    total, totals = 0, [0]
    for node in traced.graph.nodes:
        total += traced.macs.get(node, 0)
        totals.append(total)
    return totals
