"""positions -> cuts: the best of them around each place where the map shrinks, or at equal shares of the work.

The position is preferred where adapters can fold, then the one nearest to the top of the module tree, then the nearest
to the shrinking layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import fx, nn

from graftcli.models.cuts.positions import Layout, Position, as_map, positions
from graftcli.models.tracing.trace import Traced

__all__ = ["Layout", "Position", "Shrink", "before_head", "beside", "by_work", "cuts", "positions", "shrinks"]


@dataclass(frozen=True)
class Shrink:
    """The layer at which the map becomes smaller, with the positions on both sides of it, in order."""

    node: fx.Node
    before: tuple[Position, ...]
    after: tuple[Position, ...]
    stage: bool  # whether the side before it is a stage, not only a stem that shrinks the image


_STEM_STRIDE = 4  # from this stride on everything is a stage
_STEM_SHARE = 0.1  # below it, only what does this share of the work, in a network whose first layer does not shrink
_NEARLY = 0.65  # a map that keeps this share of its area was trimmed by a layer without padding, not shrunk
_BESIDE = 2  # how many layers may lie between a cut and the shrinking layer


def shrinks(traced: Traced) -> list[Shrink]:
    """The places where the map becomes smaller, the stem's included, the last pooling not."""
    places = before_head(traced, positions(traced))
    total = max(1, sum(traced.macs.values()))
    order = {node: i for i, node in enumerate(traced.graph.nodes)}
    found: list[Shrink] = []
    width = traced.shapes[traced.source][2]
    works_at_once = bool(places) and width == places[0].size[0]  # the first layer keeps the image's size
    for before, after in pairwise(_runs(places)):
        node = _shrinking_node(traced, before[-1], after[0])
        if _area(after[0]) >= _area(before[-1]) or _is_only_head(traced, order[node] + 1):
            continue
        entered = order[found[-1].node] + 1 if found else 0  # the layer that made this size is no work at it
        work = sum(traced.macs.get(n, 0) for n in traced.nodes[entered : before[-1].index])
        is_large = width / before[0].size[0] < _STEM_STRIDE - 0.5
        stage = not is_large or (works_at_once and work >= _STEM_SHARE * total)
        found.append(Shrink(node, tuple(before), tuple(after), stage))
    return found


def _area(position: Position) -> int:
    return position.size[0] * position.size[1]


def _runs(places: Sequence[Position]) -> list[list[Position]]:
    runs: list[list[Position]] = []
    for place in places:
        if runs and _NEARLY * _area(runs[-1][-1]) <= _area(place) <= _area(runs[-1][-1]):
            runs[-1].append(place)
        else:
            runs.append([place])
    return runs


def before_head(traced: Traced, places: Sequence[Position]) -> list[Position]:
    """The positions up to the last one whose map has still to be looked at by a layer that sees more than one place."""
    last = 0
    for i, node in enumerate(traced.graph.nodes):
        if _looks_around(traced, node):
            last = i
    return [place for place in places if place.index <= last or _area(place) > 1]


def _looks_around(traced: Traced, node: fx.Node) -> bool:
    """Whether a layer sees more than one place of a map, and is not the one that reads the whole map at once."""
    module = traced.module_of(node)
    if module is None or not node.all_input_nodes or len(traced.shapes.get(node.all_input_nodes[0], ())) != 4:
        return False
    if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
        return traced.shapes[node][-1] > 1
    extent = traced.shapes[node.all_input_nodes[0]][2:]
    convs = [m for m in module.modules() if isinstance(m, nn.Conv2d) and max(m.kernel_size) > 1]
    return any(max(conv.kernel_size) < max(extent) or conv.padding not in (0, (0, 0)) for conv in convs)


def _shrinking_node(traced: Traced, before: Position, after: Position) -> fx.Node:
    """The first node behind `before` whose map is as small as that of `after`."""
    image = traced.shapes[traced.source]
    for node in traced.nodes[before.index : after.index]:
        shape = traced.shapes.get(node)
        seen = as_map(traced, node, shape, image) if shape and shape[0] == image[0] else None
        if seen is not None and seen[1] == after.size:
            return node
    return after.node


def _layers_between(traced: Traced, start: int, stop: int) -> list[str]:
    """The paths of the layers with weights between two nodes, those inside modules that are kept whole too."""
    modules = [(str(n.target), traced.module_of(n)) for n in traced.nodes[start:stop]]
    return [path for path, module in modules if module is not None for _ in range(_count_layers(module))]


def _count_layers(module: nn.Module) -> int:
    return sum(any(p.dim() > 1 for p in m.parameters(recurse=False)) for m in module.modules())


def _unit(traced: Traced, node: fx.Node) -> str:
    """The path, with a final dot, of the module that was written around a node: no container, no wrapped layer."""
    path = traced.paths[node]
    while path:
        path = path.rpartition(".")[0]
        module = traced.module.get_submodule(path)
        if not isinstance(module, nn.Sequential | nn.ModuleList) and _count_layers(module) > 1:
            break
    return f"{path}." if path else ""


def beside(shrink: Shrink) -> list[Position]:
    """The positions near a shrinking layer, the best one first: after a max-pool, before anything else."""
    traced = shrink.before[0].traced
    at = traced.nodes.index(shrink.node)
    unit = _unit(traced, shrink.node)
    after_first = is_max_pool(traced, shrink.node) and not _layers_between(traced, at + 1, shrink.after[0].index)
    ranked: list[tuple[tuple[int, ...], Position]] = []
    for other_side, group in ((after_first, shrink.before), (not after_first, shrink.after)):
        for place in group:
            start, stop = sorted((place.index, at if place.index <= at else at + 1))
            between = _layers_between(traced, start, stop)
            apart = not all(f"{path}.".startswith(unit) for path in between)
            nearest = place in (shrink.before[-1], shrink.after[0])  # however far: there is no other
            near = nearest or (len(between) <= _BESIDE and not apart)
            if near and not _is_only_head(traced, place.index):
                ranked.append(((apart, *_rank(place, other_side), len(between), abs(place.index - at)), place))
    return [place for _, place in sorted(ranked, key=lambda pair: pair[0])]


def _rank(place: Position, other_side: bool) -> tuple[int, ...]:
    """The lower the better: what folds, on the better side, without a token of no place, where a module ends."""
    stays, inside = not place.foldable, place.node not in place.traced.ends
    return stays, stays and inside, other_side, place.prefix, inside, place.depth


def is_max_pool(traced: Traced, node: fx.Node) -> bool:
    module = traced.module_of(node)
    name = type(module).__name__ if module is not None else getattr(node.target, "__name__", str(node.target))
    return "max_pool" in name.lower() or "maxpool" in name.lower()


def cuts(traced: Traced) -> list[Position]:
    """The natural cuts of one network: the best position beside each shrinking layer that ends a stage."""
    found: list[Position] = []
    for shrink in shrinks(traced):
        choice = next((p for p in beside(shrink) if not found or p.index > found[-1].index), None)
        if shrink.stage and choice is not None:
            found.append(choice)
    return found


def _is_only_head(traced: Traced, start: int) -> bool:
    """Whether no layer from a node on looks around on a map, or works on one of more than one place."""
    image = traced.shapes[traced.source]
    for node in traced.nodes[start:]:
        if _looks_around(traced, node):
            return False
        module, shape = traced.module_of(node), traced.shapes.get(node, ())
        if module is None or not any(p.dim() > 1 for p in module.parameters()) or len(shape) < 3:
            continue
        seen = as_map(traced, node, shape, image)
        if seen is None or seen[1] != (1, 1):
            return False
    return True


def by_work(traced: Traced, count: int) -> list[Position]:
    """The `count - 1` positions that cut a network of one resolution into blocks of equal work, as high in the module
    tree as gives nearly equal ones."""
    work = work_before(traced)
    total = work[-1]
    places = [place for place in positions(traced) if 0 < work[place.index] < total]
    best: list[Position] = []
    best_share = 1.0
    for depth in sorted({place.depth for place in places}):
        chosen = equal_shares(_one_a_layer(places, work, depth), work, 0, len(traced.nodes), count)
        marks = [0, *(work[place.index] for place in chosen), total]
        share = max(b - a for a, b in pairwise(marks)) / total
        if len(chosen) == count - 1 and share < best_share - 0.5 / count:
            best, best_share = chosen, share
    return best


def _one_a_layer(places: Sequence[Position], work: Sequence[int], depth: int) -> list[Position]:
    """Of the positions between which nothing is computed the last one highest in the module tree: no block is empty."""
    best: dict[int, Position] = {}
    for place in sorted((p for p in places if p.depth <= depth), key=lambda p: (-p.depth, p.index)):
        best[work[place.index]] = place
    return sorted(best.values(), key=lambda p: p.index)


def equal_shares(places: Sequence[Position], work: Sequence[int], start: int, stop: int, count: int) -> list[Position]:
    """The `count - 1` positions nearest to equal shares of the work between two nodes; all, where there are fewer."""
    chosen: list[Position] = []
    free = list(places)
    for k in range(1, count):
        goal = work[start] + (work[stop] - work[start]) * k / count
        enough = free[: max(1, len(free) - (count - 1 - k))]  # one is left for each share that follows
        if enough:
            chosen.append(min(enough, key=lambda p: (abs(work[p.index] - goal), p.depth)))
            free = free[free.index(chosen[-1]) + 1 :]
    return chosen


def work_before(traced: Traced) -> list[int]:
    """The multiply-adds that have been done before each node, and in all."""
    total, found = 0, [0]
    for node in traced.graph.nodes:
        total += traced.macs.get(node, 0)
        found.append(total)
    return found
