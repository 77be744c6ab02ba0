"""Seams and scions: what joins two networks at a cut, and the teacher with blocks of the student in it."""

import copy
from collections.abc import Collection, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graftcli.errors import UsageError
from graftcli.models.cuts.plan import Plan
from graftcli.models.cuts.positions import Layout, Position


class Relayout(nn.Module):
    """The same map in another layout; a layout change has no weights."""

    def __init__(self, source: Layout, target: Layout, size: tuple[int, int]) -> None:
        super().__init__()
        self.source, self.target, self.size = source, target, size

    def forward(self, features: Tensor) -> Tensor:
        if self.source == self.target:
            return features
        if self.source == "NCHW":
            features = features.permute(0, 2, 3, 1)
        elif self.source == "tokens":
            features = features.reshape(features.shape[0], *self.size, features.shape[2])
        if self.target == "NCHW":
            return features.permute(0, 3, 1, 2)  # as it lies in memory this is channels-last, which convolutions like
        return features.flatten(1, 2) if self.target == "tokens" else features.contiguous()

    def extra_repr(self) -> str:
        return f"{self.source} -> {self.target}, size={self.size}"


class Adapter(Relayout):
    """A bias-free 1x1 from one map to another, in the other's layout: each place becomes `weight @ place`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        source: Layout = "NCHW",
        target: Layout = "NCHW",
        size: tuple[int, int] = (1, 1),
    ) -> None:
        super().__init__(source, target, size)
        self.weight = nn.Parameter(torch.eye(outputs, inputs))

    @classmethod
    def between(cls, source: Position, target: Position) -> "Adapter":
        """From the maps at one place to those at another, at first a rectangular identity."""
        return cls(source.channels, target.channels, source.layout, target.layout, source.size)

    def forward(self, features: Tensor) -> Tensor:
        if self.source == "NCHW":
            return super().forward(F.conv2d(features, self.weight[:, :, None, None]))
        return super().forward(F.linear(features, self.weight))

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]} -> {self.weight.shape[0]}, {super().extra_repr()}"


class Seam(nn.Module):
    """What joins the networks at one cut: a way into the student's space and a way back into the teacher's."""

    to_student: nn.Module
    to_teacher: nn.Module

    def __init__(self, ours: Position, theirs: Position, to_student: nn.Module, to_teacher: nn.Module) -> None:
        super().__init__()
        self.ours, self.theirs = ours, theirs
        self.to_student, self.to_teacher = to_student, to_teacher

    def __deepcopy__(self, memo: dict[int, Any]) -> "Seam":
        """The positions are facts and are shared: behind them lie whole networks."""
        return Seam(self.ours, self.theirs, *(copy.deepcopy(way, memo) for way in (self.to_student, self.to_teacher)))


def seams(plan: Plan, where: Literal["auto", "always"] = "auto") -> list[Seam]:
    """One seam a cut, with adapters where the channels differ, or always; they start as rectangular identities."""
    found = []
    for ours, theirs in zip(plan.teacher.cuts, plan.student.cuts, strict=True):
        adapted = where == "always" or ours.channels != theirs.channels
        found.append(Seam(ours, theirs, _way(ours, theirs, adapted), _way(theirs, ours, adapted)))
    return found


def _way(source: Position, target: Position, adapted: bool) -> nn.Module:
    if adapted:
        return Adapter.between(source, target)
    return nn.Identity() if source.layout == target.layout else Relayout(source.layout, target.layout, source.size)


class Scion(nn.Module):
    """A student block with the seams at its two ends: it takes and gives the teacher's features."""

    def __init__(self, to_student: nn.Module, block: nn.Module, to_teacher: nn.Module) -> None:
        super().__init__()
        self.to_student, self.block, self.to_teacher = to_student, block, to_teacher

    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = self.to_teacher(self.block(self.to_student(features)))
        return result


def scion(plan: Plan, seams: Sequence[Seam], block: int) -> Scion:
    """The student's block of this number, from 1, between its seams; none lies before the first or after the last."""
    inwards = [nn.Identity(), *(seam.to_student for seam in seams)]
    outwards = [*(seam.to_teacher for seam in seams), nn.Identity()]
    return Scion(inwards[block - 1], plan.student.blocks[block - 1], outwards[block - 1])


def graft(plan: Plan, seams: Sequence[Seam], blocks: Collection[int]) -> nn.Sequential:
    """The teacher with the student's `blocks` in place of its own, over the networks' modules; item k-1 is block k."""
    check_blocks(plan, blocks)
    own = enumerate(plan.teacher.blocks, 1)
    return nn.Sequential(*(scion(plan, seams, k) if k in blocks else block for k, block in own))


def check_blocks(plan: Plan, blocks: Collection[int]) -> None:
    """Blocks that the plan does not have are refused."""
    count = len(plan.blocks)
    unknown = sorted(k for k in blocks if not 1 <= k <= count)
    if unknown:
        found = f"The plan has blocks 1 to {count}; asked for {', '.join(map(str, unknown))}."
        raise UsageError(found, "`graftcli plan` shows the blocks of these two networks.")
