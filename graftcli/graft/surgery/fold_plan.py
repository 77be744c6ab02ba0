"""What lies between two blocks of a hybrid, and the layers beside it that can take it in."""

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod
from typing import Literal

from torch import Tensor, nn

from graftcli.graft.surgery.fold import Plain, into_maker, into_reader, past_batchnorm
from graftcli.graft.surgery.hybrid import Joint, Role
from graftcli.graft.surgery.seams import Adapter, Seam
from graftcli.models.cuts.foldability import Fold, FoldableLayer
from graftcli.models.cuts.plan import Plan, Side, count_parameters

Direction = Literal["forward", "backward"]


@dataclass(frozen=True)
class FoldSide:
    """The block on one side of a cut, and how it can take an adapter in."""

    direction: Direction  # "forward" for the block that reads the cut, "backward" for the one that made it
    role: Role
    fold: Fold


@dataclass(frozen=True)
class AdapterSite:
    """What stands at a cut of a hybrid, with its numbers, and the two blocks beside it."""

    joint: Joint
    weight: Tensor | None  # float64, on the CPU; None where only the layout changes
    ends: tuple[FoldSide, FoldSide]
    places: int  # of the map


def betweens(plan: Plan, seams: Sequence[Seam], blocks: Collection[int]) -> Iterator[AdapterSite]:
    """In order, wherever anything lies; two adapters in a row are one, from the student's space into the student's."""
    roles: list[Role] = ["student" if block.index in blocks else "teacher" for block in plan.blocks]
    for cut, seam in enumerate(seams, 1):
        left, right = roles[cut - 1], roles[cut]
        ways = [way for way, role in ((seam.to_teacher, left), (seam.to_student, right)) if role == "student"]
        weights = [way.weight.detach().cpu().double() for way in ways if isinstance(way, Adapter)]
        source = seam.theirs if left == "student" else seam.ours
        target = seam.theirs if right == "student" else seam.ours
        if not weights and source.layout == target.layout:
            continue
        weight = reduce(lambda first, then: then @ first, weights) if weights else None
        shape = (target.channels, source.channels) if weights else None
        joint = Joint(cut, _name(left, right), source.layout, target.layout, source.size, shape)
        ends = (_end(plan, "forward", right, cut), _end(plan, "backward", left, cut))
        yield AdapterSite(joint, weight, ends, prod(source.shape) // source.channels)


def _name(left: Role, right: Role) -> Literal["to_student", "to_teacher", "both"]:
    if left == right:
        return "both"
    return "to_student" if right == "student" else "to_teacher"


def side_of(plan: Plan, role: Role) -> Side:
    return plan.student if role == "student" else plan.teacher


def _end(plan: Plan, direction: Direction, role: Role, cut: int) -> FoldSide:
    """Beyond the neighbouring block may lie another adapter, or the other network: no layer there takes this one in."""
    side, place = side_of(plan, role), side_of(plan, role).cuts[cut - 1]
    fold, block = (
        (place.forwards, side.blocks[cut]) if direction == "forward" else (place.backwards, side.blocks[cut - 1])
    )
    beyond = {layer.path for layer in fold.layers} - {name for name, _ in block.named_modules()}
    return FoldSide(direction, role, Fold(blocker=f"`{min(beyond)}` lies beyond the next block") if beyond else fold)


class LayerCopies(dict[str, nn.Module]):
    """Layers by their path in a hybrid: float64 copies of the networks' own, until others are put in."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan

    def __missing__(self, path: str) -> nn.Module:
        return copy.deepcopy(self.original(path)).cpu().double()

    def original(self, path: str) -> nn.Module:
        role, _, rest = path.partition(".")
        return side_of(self.plan, "student" if role == "student" else "teacher").network.module.get_submodule(rest)


@dataclass(frozen=True)
class FoldedLayer:
    """A layer that takes an adapter in."""

    cut: int
    adapter: str  # "to_student", "to_teacher", or "both", one after the other
    path: str  # "student.layer2.0.conv1"
    direction: Direction
    batchnorm: str | None = None  # the norm between them, of which only mean and bias stay


@dataclass(frozen=True)
class FoldOption:
    """One way to fold an adapter: the layers as they then are, and by how much the network grows."""

    layers: Mapping[str, nn.Module]
    folded: tuple[FoldedLayer, ...]
    params: int
    macs: int

    @property
    def grows(self) -> bool:
        return self.params > 0 or self.macs > 0


def ways(between: AdapterSite, layers: LayerCopies, work: Mapping[str, int]) -> list[FoldOption]:
    """All of them, the one with the smallest result first; `work` has the multiply-adds of the original layers."""
    if between.weight is None:
        return []
    found = [_way(between, between.weight, end, layers, work) for end in between.ends if end.fold]
    return sorted(found, key=lambda way: (way.params, way.macs))


def _way(
    between: AdapterSite, weight: Tensor, end: FoldSide, layers: LayerCopies, work: Mapping[str, int]
) -> FoldOption:
    changed: dict[str, nn.Module] = {}
    for layer in end.fold.layers:
        changed.update(_taken_in(end, layer, weight, layers))
    params = sum(count_parameters(new) - count_parameters(layers[path]) for path, new in changed.items())
    macs = sum(
        _macs(new, path, layers, work) - _macs(layers[path], path, layers, work) for path, new in changed.items()
    )
    joint = between.joint
    return FoldOption(
        layers=changed,
        folded=tuple(
            FoldedLayer(joint.cut, joint.name, f"{end.role}.{layer.path}", end.direction, layer.batchnorm)
            for layer in end.fold.layers
        ),
        params=params - weight.numel(),
        macs=macs - weight.numel() * between.places,
    )


def _taken_in(end: FoldSide, layer: FoldableLayer, weight: Tensor, layers: LayerCopies) -> dict[str, nn.Module]:
    path = f"{end.role}.{layer.path}"
    old = layers[path]
    assert isinstance(old, Plain)  # a fold names no other layers
    if end.direction == "forward":
        return {path: into_reader(old, weight)}
    if layer.batchnorm is None:
        return {path: into_maker(old, weight)}
    norm_path = f"{end.role}.{layer.batchnorm}"
    norm = layers[norm_path]
    assert isinstance(norm, nn.BatchNorm2d)
    made, shift = past_batchnorm(old, norm, weight)
    return {path: made, norm_path: shift}


def _macs(layer: nn.Module, path: str, layers: LayerCopies, work: Mapping[str, int]) -> int:
    """The multiply-adds of a layer that stands for the one at `path`: as many more as it has more weights."""
    original = layers.original(path)
    if path not in work or not isinstance(layer, Plain) or not isinstance(original, Plain):
        return 0
    return work[path] * layer.weight.numel() // original.weight.numel()
