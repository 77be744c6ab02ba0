"""Measure the blocks of a network: first and last layer, parameters, MACs and shapes."""

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
    inputs: tuple[int, ...]  # shapes without the batch dimension
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Side:
    """One network of a plan, with its cuts."""

    network: Network
    traced: Traced
    cuts: tuple[Position, ...]

    @cached_property
    def blocks(self) -> list[fx.GraphModule]:
        """The network split at its cuts."""
        return split(self.traced, self.cuts)

    @property
    def params(self) -> int:
        """The number of parameters of the network."""
        return count_parameters(self.network.module)

    @property
    def macs(self) -> int:
        """The multiply-accumulates of the network per image."""
        return sum(self.traced.macs.values())


def count_parameters(module: nn.Module) -> int:
    """The number of parameters; a shared parameter counts once."""
    return sum(p.numel() for p in module.parameters())


def measure_blocks(side: Side) -> list[BlockPart]:
    """Measure each block; a parameter shared by two blocks counts in the first."""
    traced = side.traced
    bounds = [0, *(cut.index for cut in side.cuts), len(traced.nodes)]
    shapes = [traced.shapes[n][1:] for n in (traced.source, *(cut.node for cut in side.cuts))]
    shapes.append(traced.shapes[_output(traced)][1:])
    counted: set[int] = set()
    parts = []
    for k, (start, stop) in enumerate(pairwise(bounds)):
        nodes = [n for n in traced.nodes[start:stop] if n.op not in ("placeholder", "output", "get_attr")]
        first, last = traced.span_names(nodes)
        parts.append(
            BlockPart(
                first=first,
                last=last,
                params=_parameters(side.blocks[k], counted),
                macs=sum(traced.macs[n] for n in nodes),
                inputs=shapes[k],
                outputs=shapes[k + 1],
            )
        )
    return parts


def _output(traced: Traced) -> fx.Node:
    output = traced.nodes[-1].args[0]
    assert isinstance(output, fx.Node)  # a traced classifier returns one tensor
    return output


def _parameters(block: nn.Module, counted: set[int]) -> int:
    new = [p for p in block.parameters() if id(p) not in counted]
    counted.update(map(id, new))
    return sum(p.numel() for p in new)


def stem_params(side: Side) -> int:
    """The parameters of the stem: block 1 up to its last downsampling layer, or the top-level module around it."""
    return _count_used(side, 0, _stem_end(side))


def head_params(side: Side) -> int:
    """The parameters of the head: the last block after its feature maps."""
    traced = side.traced
    maps = [
        i for i, n in enumerate(traced.nodes) if len(traced.shapes.get(n, ())) >= 3 and _is_spatial(traced.shapes[n])
    ]
    return _count_used(side, maps[-1] + 1 if maps else len(traced.nodes), len(traced.nodes))


def _is_spatial(shape: tuple[int, ...]) -> bool:
    """Whether a tensor has more than one spatial location."""
    return sum(extent > 1 for extent in shape[1:]) > 1


def _count_used(side: Side, start: int, stop: int) -> int:
    """The number of parameters used between two nodes, in modules or read directly."""
    used: dict[int, nn.Parameter] = {}
    for node in side.traced.nodes[start:stop]:
        module = side.traced.module_of(node)
        if module is not None:
            used.update((id(p), p) for p in module.parameters())
        elif node.op == "get_attr" and isinstance(
            value := _attribute(side.traced.root, str(node.target)), nn.Parameter
        ):
            used[id(value)] = value
    return sum(p.numel() for p in used.values())


def _attribute(root: nn.Module, path: str) -> object:
    scope, _, name = path.rpartition(".")
    return getattr(root.get_submodule(scope), name, None)


def _stem_end(side: Side) -> int:
    """The node where the stage of block 1 begins: after the stem and any operations without layers."""
    traced, index = side.traced, _after_shrinking(side)
    top_level = dict(traced.root.named_children())
    next_layers = (
        i
        for i, node in enumerate(traced.nodes)
        if i >= index and _is_layer(top_level.get(traced.paths[node].partition(".")[0]))
    )
    return min(next(next_layers), side.cuts[0].index) if index else 0


def _is_layer(module: nn.Module | None) -> bool:
    return module is not None and any(p.dim() > 1 for p in module.parameters())


def _after_shrinking(side: Side) -> int:
    """The node after the module that produces the resolution of block 1's stage, or before the unit inside it that
    does, if that module contains the stage."""
    traced, cut = side.traced, side.cuts[0]
    index = next(i for i, n in enumerate(traced.nodes) if _size_of(traced, n) == cut.size)
    if traced.nodes[index] is cut.node:
        return 0
    paths = [traced.paths[n] for n in traced.nodes]
    scopes = [paths[index][:i] for i in range(len(paths[index]) + 1) if paths[index][i : i + 1] in (".", "")]
    for scope in scopes:
        inside = [i for i, path in enumerate(paths) if f"{path}.".startswith(f"{scope}.")]
        if inside[-1] + 1 < cut.index:
            return inside[-1] + 1 if scope == scopes[0] or inside == [index] else inside[0]
    return index


def _size_of(traced: Traced, node: fx.Node) -> tuple[int, int] | None:
    """The height and width of the feature map that a node returns, or None."""
    shape, image = traced.shapes.get(node, ()), traced.shapes[traced.source]
    feature_map = as_map(traced, node, shape, image) if shape and shape[0] == image[0] else None
    return feature_map[1] if feature_map is not None else None
