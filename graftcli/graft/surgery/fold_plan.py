"""Plans how each adapter of a hybrid is folded into the layers before or after it."""

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod
from typing import Literal

from torch import Tensor, nn

from graftcli.graft.surgery.fold import Plain, into_producer, into_reader, past_batchnorm
from graftcli.graft.surgery.hybrid import Joint
from graftcli.graft.surgery.seams import Adapter, Seam
from graftcli.models.cuts.foldability import Fold, FoldableLayer
from graftcli.models.cuts.plan import Plan, Side, count_parameters
from graftcli.models.origin import Role

Direction = Literal["forward", "backward"]


@dataclass(frozen=True)
class FoldSide:
    """The block on one side of a cut, and the layers of it that an adapter can be folded into."""

    direction: Direction  # "forward" for the block after the cut, "backward" for the block before it
    role: Role
    fold: Fold


@dataclass(frozen=True)
class AdapterSite:
    """The adapter or layout change at a cut of a hybrid, and the two blocks next to it."""

    joint: Joint
    weight: Tensor | None  # float64, on the CPU; None if only the layout changes
    sides: tuple[FoldSide, FoldSide]
    positions: int  # of the feature map


def adapter_sites(plan: Plan, seams: Sequence[Seam], blocks: Collection[int]) -> Iterator[AdapterSite]:
    """Yield the sites of a hybrid in order. Two consecutive adapters between student blocks are multiplied into one."""
    roles: list[Role] = ["student" if block.index in blocks else "teacher" for block in plan.blocks]
    for cut, seam in enumerate(seams, 1):
        left, right = roles[cut - 1], roles[cut]
        modules = [module for module, role in ((seam.to_teacher, left), (seam.to_student, right)) if role == "student"]
        weights = [module.weight.detach().cpu().double() for module in modules if isinstance(module, Adapter)]
        source = seam.student_cut if left == "student" else seam.teacher_cut
        target = seam.student_cut if right == "student" else seam.teacher_cut
        if not weights and source.layout == target.layout:
            continue
        weight = reduce(lambda first, second: second @ first, weights) if weights else None
        shape = (target.channels, source.channels) if weights else None
        joint = Joint(cut, _name(left, right), source.layout, target.layout, source.size, shape)
        sides = (_fold_side(plan, "forward", right, cut), _fold_side(plan, "backward", left, cut))
        yield AdapterSite(joint, weight, sides, prod(source.shape) // source.channels)


def _name(left: Role, right: Role) -> Literal["to_student", "to_teacher", "both"]:
    if left == right:
        return "both"
    return "to_student" if right == "student" else "to_teacher"


def network_side(plan: Plan, role: Role) -> Side:
    """The teacher's or the student's side of a plan."""
    return plan.student if role == "student" else plan.teacher


def _fold_side(plan: Plan, direction: Direction, role: Role, cut: int) -> FoldSide:
    """Layers beyond the neighbouring block are excluded: another adapter or network may lie between."""
    side = network_side(plan, role)
    position = side.cuts[cut - 1]
    fold = position.forwards if direction == "forward" else position.backwards
    block = side.blocks[cut if direction == "forward" else cut - 1]
    outside = {layer.path for layer in fold.layers} - {name for name, _ in block.named_modules()}
    return FoldSide(
        direction, role, Fold(blocker=f"`{min(outside)}` is not in the adjacent block") if outside else fold
    )


class LayerCopies(dict[str, nn.Module]):
    """Layers by their path in a hybrid; a missing key gives a float64 copy of the original layer."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan

    def __missing__(self, path: str) -> nn.Module:
        return copy.deepcopy(self.original(path)).cpu().double()

    def original(self, path: str) -> nn.Module:
        """The layer itself, in the network that it belongs to."""
        role, _, rest = path.partition(".")
        return network_side(self.plan, "student" if role == "student" else "teacher").network.module.get_submodule(rest)


@dataclass(frozen=True)
class FoldedLayer:
    """A layer that an adapter is folded into."""

    cut: int
    adapter: str  # "to_student", "to_teacher", or "both" for their product
    path: str  # "student.layer2.0.conv1"
    direction: Direction
    batchnorm: str | None = None  # the norm between them, which keeps only mean and bias


@dataclass(frozen=True)
class FoldOption:
    """One way to fold an adapter: the new layers, and the change in parameters and multiply-adds."""

    layers: Mapping[str, nn.Module]
    folded: tuple[FoldedLayer, ...]
    params: int
    macs: int

    @property
    def grows(self) -> bool:
        """Whether the network gets more parameters or multiply-adds than with the adapter."""
        return self.params > 0 or self.macs > 0


def fold_options(site: AdapterSite, layers: LayerCopies, macs: Mapping[str, int]) -> list[FoldOption]:
    """Return the possible folds, the smallest result first; `macs` are the multiply-adds of the original layers."""
    if site.weight is None:
        return []
    options = [_fold_option(site, site.weight, side, layers, macs) for side in site.sides if side.fold]
    return sorted(options, key=lambda option: (option.params, option.macs))


def _fold_option(
    site: AdapterSite, weight: Tensor, side: FoldSide, layers: LayerCopies, macs: Mapping[str, int]
) -> FoldOption:
    changed: dict[str, nn.Module] = {}
    for layer in side.fold.layers:
        changed.update(_folded(side, layer, weight, layers))
    params = sum(count_parameters(new) - count_parameters(layers[path]) for path, new in changed.items())
    added_macs = sum(
        _macs(new, path, layers, macs) - _macs(layers[path], path, layers, macs) for path, new in changed.items()
    )
    joint = site.joint
    return FoldOption(
        layers=changed,
        folded=tuple(
            FoldedLayer(joint.cut, joint.name, f"{side.role}.{layer.path}", side.direction, layer.batchnorm)
            for layer in side.fold.layers
        ),
        params=params - weight.numel(),
        macs=added_macs - weight.numel() * site.positions,
    )


def _folded(side: FoldSide, layer: FoldableLayer, weight: Tensor, layers: LayerCopies) -> dict[str, nn.Module]:
    path = f"{side.role}.{layer.path}"
    old = layers[path]
    assert isinstance(old, Plain)  # a Fold names only plain layers
    if side.direction == "forward":
        return {path: into_reader(old, weight)}
    if layer.batchnorm is None:
        return {path: into_producer(old, weight)}
    norm_path = f"{side.role}.{layer.batchnorm}"
    norm = layers[norm_path]
    assert isinstance(norm, nn.BatchNorm2d)
    new, new_norm = past_batchnorm(old, norm, weight)
    return {path: new, norm_path: new_norm}


def _macs(layer: nn.Module, path: str, layers: LayerCopies, macs: Mapping[str, int]) -> int:
    """Return the multiply-adds of a layer in place of the one at `path`, in proportion to their weights."""
    original = layers.original(path)
    if path not in macs or not isinstance(layer, Plain) or not isinstance(original, Plain):
        return 0
    return macs[path] * layer.weight.numel() // original.weight.numel()
