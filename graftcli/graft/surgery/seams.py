"""Seams and scions: join two networks at a cut, and graft blocks of the student into the teacher."""

import copy
from collections.abc import Collection, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graftcli.errors import UsageError
from graftcli.models.cuts.plan import Plan
from graftcli.models.cuts.positions import Layout, Position, needs_adapter


class Relayout(nn.Module):
    """Converts features from one layout to another; has no weights."""

    def __init__(self, source: Layout, target: Layout, size: tuple[int, int]) -> None:
        super().__init__()
        self.source, self.target, self.size = source, target, size

    def forward(self, features: Tensor) -> Tensor:
        """The features in the target layout."""
        if self.source == self.target:
            return features
        if self.source == "NCHW":
            features = features.permute(0, 2, 3, 1)
        elif self.source == "tokens":
            features = features.reshape(features.shape[0], *self.size, features.shape[2])
        if self.target == "NCHW":
            return features.permute(0, 3, 1, 2)  # channels-last memory format is faster for convolutions
        return features.flatten(1, 2) if self.target == "tokens" else features.contiguous()

    def extra_repr(self) -> str:
        """The layouts, in the representation of the module."""
        return f"{self.source} -> {self.target}, size={self.size}"


class Adapter(Relayout):
    """A bias-free 1x1 convolution with a layout change: each position x becomes `weight @ x`."""

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
        """Make an adapter from the features at one cut to those at another, initialised to a rectangular identity."""
        return cls(source.channels, target.channels, source.layout, target.layout, source.size)

    def forward(self, features: Tensor) -> Tensor:
        """The features with other channels, in the target layout."""
        if self.source == "NCHW":
            return super().forward(F.conv2d(features, self.weight[:, :, None, None]))
        return super().forward(F.linear(features, self.weight))

    def extra_repr(self) -> str:
        """The channels and layouts, in the representation of the module."""
        return f"{self.weight.shape[1]} -> {self.weight.shape[0]}, {super().extra_repr()}"


class Seam(nn.Module):
    """Joins the networks at one cut: `to_student` maps teacher features to the student's space, `to_teacher` back."""

    to_student: nn.Module
    to_teacher: nn.Module

    def __init__(
        self, teacher_cut: Position, student_cut: Position, to_student: nn.Module, to_teacher: nn.Module
    ) -> None:
        super().__init__()
        self.teacher_cut, self.student_cut = teacher_cut, student_cut
        self.to_student, self.to_teacher = to_student, to_teacher

    def __deepcopy__(self, memo: dict[int, object]) -> "Seam":
        """Copy the adapters, but not the positions, which refer to whole networks."""
        to_student, to_teacher = copy.deepcopy(self.to_student, memo), copy.deepcopy(self.to_teacher, memo)
        return Seam(self.teacher_cut, self.student_cut, to_student, to_teacher)


def seams(plan: Plan, where: Literal["auto", "always"] = "auto") -> list[Seam]:
    """Make one seam per cut, with adapters where the channels differ or always; they start as identity matrices."""
    result = []
    for teacher, student in zip(plan.teacher.cuts, plan.student.cuts, strict=True):
        has_adapters = where == "always" or needs_adapter(teacher, student)
        to_student, to_teacher = _join(teacher, student, has_adapters), _join(student, teacher, has_adapters)
        result.append(Seam(teacher, student, to_student, to_teacher))
    return result


def _join(source: Position, target: Position, has_adapter: bool) -> nn.Module:
    if has_adapter:
        return Adapter.between(source, target)
    return nn.Identity() if source.layout == target.layout else Relayout(source.layout, target.layout, source.size)


class Scion(nn.Module):
    """A student block between the adapters of its two seams: maps teacher features to teacher features."""

    def __init__(self, to_student: nn.Module, block: nn.Module, to_teacher: nn.Module) -> None:
        super().__init__()
        self.to_student, self.block, self.to_teacher = to_student, block, to_teacher

    def forward(self, features: Tensor) -> Tensor:
        """The features after the block, in the teacher's space."""
        result: Tensor = self.to_teacher(self.block(self.to_student(features)))
        return result


def scion(plan: Plan, seams: Sequence[Seam], block: int) -> Scion:
    """Return student block number `block`, counted from 1, between its seams; the first and last have only one."""
    to_student = [nn.Identity(), *(seam.to_student for seam in seams)]
    to_teacher = [*(seam.to_teacher for seam in seams), nn.Identity()]
    return Scion(to_student[block - 1], plan.student.blocks[block - 1], to_teacher[block - 1])


def graft(plan: Plan, seams: Sequence[Seam], blocks: Collection[int]) -> nn.Sequential:
    """Return the teacher with these blocks replaced by the student's; item k-1 is block k. Modules are not copied."""
    check_blocks(plan, blocks)
    teacher_blocks = enumerate(plan.teacher.blocks, 1)
    return nn.Sequential(*(scion(plan, seams, k) if k in blocks else block for k, block in teacher_blocks))


def check_blocks(plan: Plan, blocks: Collection[int]) -> None:
    """Raise if the plan does not have one of these blocks."""
    count = len(plan.blocks)
    unknown = sorted(k for k in blocks if not 1 <= k <= count)
    if unknown:
        message = f"The plan has blocks 1 to {count}, not {', '.join(map(str, unknown))}."
        raise UsageError(message, "`graftcli plan` shows the blocks of these two networks.")
