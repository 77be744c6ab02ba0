"""One network, cut: what each of its blocks spans, holds and costs."""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from torch import fx, nn

from graftcli.models.cuts.positions import Position, as_map
from graftcli.models.network import Network
from graftcli.models.tracing.split import split
from graftcli.models.tracing.trace import Traced


@dataclass(frozen=True)
class BlockPart:
    """One network's share of a block."""

    first: str
    last: str
    params: int
    macs: int
    inputs: tuple[int, ...]  # shapes without the batch
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Side:
    """One network of a plan, cut."""

    network: Network
    traced: Traced
    cuts: tuple[Position, ...]

    @cached_property
    def blocks(self) -> list[fx.GraphModule]:
        return split(self.traced, self.cuts)

    @property
    def params(self) -> int:
        return count_parameters(self.network.module)

    @property
    def macs(self) -> int:
        return sum(self.traced.macs.values())


def count_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def parts_of(side: Side) -> list[BlockPart]:
    """Each block's span, size and shapes; a parameter that two blocks share counts in the first."""
    traced = side.traced
    bounds = [0, *(cut.index for cut in side.cuts), len(traced.nodes)]
    shapes = [traced.shapes[n][1:] for n in (traced.source, *(cut.node for cut in side.cuts))]
    shapes.append(traced.shapes[_answer(traced)][1:])
    seen: set[int] = set()
    found = []
    for k, (start, stop) in enumerate(pairwise(bounds)):
        nodes = [n for n in traced.nodes[start:stop] if n.op not in ("placeholder", "output", "get_attr")]
        first, last = traced.span_names(nodes)
        found.append(
            BlockPart(
                first=first,
                last=last,
                params=_parameters(side.blocks[k], seen),
                macs=sum(traced.macs[n] for n in nodes),
                inputs=shapes[k],
                outputs=shapes[k + 1],
            )
        )
    return found


def _answer(traced: Traced) -> fx.Node:
    answer = traced.nodes[-1].args[0]
    assert isinstance(answer, fx.Node)  # a traced classifier returns one tensor
    return answer


def _parameters(block: nn.Module, seen: set[int]) -> int:
    fresh = [p for p in block.parameters() if id(p) not in seen]
    seen.update(map(id, fresh))
    return sum(p.numel() for p in fresh)


def stem_params(side: Side) -> int:
    """What block 1 holds before its stage: all up to the last shrinking layer, or the top-level module it stands in."""
    return _held(side, 0, _stem_end(side))


def head_params(side: Side) -> int:
    """What the last block holds behind its maps."""
    traced = side.traced
    maps = [i for i, n in enumerate(traced.nodes) if len(traced.shapes.get(n, ())) >= 3 and _spread(traced.shapes[n])]
    return _held(side, maps[-1] + 1 if maps else len(traced.nodes), len(traced.nodes))


def _spread(shape: tuple[int, ...]) -> bool:
    """Whether a tensor still has more than one place."""
    return sum(extent > 1 for extent in shape[1:]) > 1


def _held(side: Side, start: int, stop: int) -> int:
    """The parameters of the modules that run between two nodes, and those that are read without a module."""
    held: dict[int, nn.Parameter] = {}
    for node in side.traced.nodes[start:stop]:
        module = side.traced.module_of(node)
        if module is not None:
            held.update((id(p), p) for p in module.parameters())
        elif node.op == "get_attr" and isinstance(
            value := _attribute(side.traced.root, str(node.target)), nn.Parameter
        ):
            held[id(value)] = value
    return sum(p.numel() for p in held.values())


def _attribute(root: nn.Module, path: str) -> object:
    scope, _, name = path.rpartition(".")
    return getattr(root.get_submodule(scope), name, None)


def _stem_end(side: Side) -> int:
    """The node where block 1's stage begins: after the stem and what follows it without a layer of its own."""
    traced, at = side.traced, _after_shrinking(side)
    top = dict(traced.root.named_children())
    follows = (
        i for i, node in enumerate(traced.nodes) if i >= at and _is_layer(top.get(traced.paths[node].partition(".")[0]))
    )
    return min(next(follows), side.cuts[0].index) if at else 0


def _is_layer(module: nn.Module | None) -> bool:
    return module is not None and any(p.dim() > 1 for p in module.parameters())


def _after_shrinking(side: Side) -> int:
    """Behind the module that made maps of the size of block 1's stage; where that module holds the stage itself,
    before the unit of it that did."""
    traced, cut = side.traced, side.cuts[0]
    at = next(i for i, n in enumerate(traced.nodes) if _size_of(traced, n) == cut.size)
    if traced.nodes[at] is cut.node:
        return 0
    paths = [traced.paths[n] for n in traced.nodes]
    scopes = [paths[at][:i] for i in range(len(paths[at]) + 1) if paths[at][i : i + 1] in (".", "")]
    for scope in scopes:
        inside = [i for i, path in enumerate(paths) if f"{path}.".startswith(f"{scope}.")]
        if inside[-1] + 1 < cut.index:
            return inside[-1] + 1 if scope == scopes[0] or inside == [at] else inside[0]
    return at


def _size_of(traced: Traced, node: fx.Node) -> tuple[int, int] | None:
    """The height and width of the map that a node gives, if it gives one."""
    shape, image = traced.shapes.get(node, ()), traced.shapes[traced.source]
    seen = as_map(traced, node, shape, image) if shape and shape[0] == image[0] else None
    return seen[1] if seen is not None else None
