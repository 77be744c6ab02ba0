"""Initial weights of adapters: the identity, the least-squares solution, or random numbers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from graftcli.graft.surgery.seams import Adapter, Seam
from graftcli.graft.training.pieces import Pieces
from graftcli.models.channel_selection import ChannelSelection
from graftcli.models.cuts.plan import Plan
from graftcli.models.cuts.positions import Position
from graftcli.models.derivation import selections_of
from graftcli.models.least_squares import solve

_RIDGE = 1e-3  # relative to the mean of the diagonal; prevents overfitting to a few images


@torch.no_grad()
def initialize_adapters(
    method: Literal["identity", "least-squares", "random"],
    plan: Plan,
    seams: Sequence[Seam],
    pieces: Pieces,
    images: Tensor,
    seed: int,
    before_block: Callable[[int], None] = lambda block: None,
) -> None:
    """Set the initial weights of every adapter; `images` are normalised.

    For a student that is derived from the teacher, the identity selects the channels that the student keeps, so that
    `to_teacher` followed by `to_student` changes nothing. `before_block` is called for each block in order: after the
    adapter that leads into the block is set, and before the block's output is used.
    """
    if method == "least-squares":
        _solve_all(plan, seams, pieces, images, before_block)
        return
    if method == "identity":
        _select_all(plan, seams)
    else:
        generator = torch.Generator().manual_seed(seed)
        for seam in seams:
            for adapter in adapters(seam):
                weight = torch.randn(adapter.weight.shape, generator=generator) / adapter.weight.shape[1] ** 0.5
                adapter.weight.copy_(weight)
    for block in range(1, pieces.blocks + 1):
        before_block(block)


def adapters(module: nn.Module) -> list[Adapter]:
    """The adapters in a module, such as a seam."""
    return [m for m in module.modules() if isinstance(m, Adapter)]


def _select_all(plan: Plan, seams: Sequence[Seam]) -> None:
    selections = {selection.layer: selection for selection in selections_of(plan.student.network)}
    for seam in seams:
        channels = _kept_channels(seam.student_cut, selections)
        to_student, to_teacher = _adapter_pair(seam)
        if channels is None or to_student is None or to_teacher is None:
            continue
        matrix = torch.eye(seam.teacher_cut.channels)[list(channels)].to(to_student.weight)
        if matrix.shape == to_student.weight.shape:
            to_student.weight.copy_(matrix)
            to_teacher.weight.copy_(matrix.T)


def _kept_channels(cut: Position, selections: Mapping[str, ChannelSelection]) -> tuple[int, ...] | None:
    """Return the teacher's channels at a cut of the student: those that the layers after the cut read."""
    inputs = [selections[layer.path].inputs for layer in cut.forwards.layers if layer.path in selections]
    return inputs[0] if inputs and not cut.forwards.blocker else None


def _solve_all(
    plan: Plan, seams: Sequence[Seam], pieces: Pieces, images: Tensor, before_block: Callable[[int], None]
) -> None:
    """Fit each adapter between the output of the student's block, run on teacher features, and the teacher's output."""
    value = images
    for k, seam in enumerate(seams, 1):
        before_block(k)
        output = plan.student.blocks[k - 1](seams[k - 2].to_student(value) if k > 1 else value)
        value = pieces.teacher[k - 1](value)
        student, teacher = rows(output, seam.student_cut.channel_dim), rows(value, seam.teacher_cut.channel_dim)
        pairs = ((teacher, student), (student, teacher))
        for adapter, (source, target) in zip(_adapter_pair(seam), pairs, strict=True):
            if adapter is not None:
                adapter.weight.copy_(_fit(source, target))
    before_block(pieces.blocks)
    if pieces.last_maps is not None and (regressor := next(iter(adapters(pieces.regressor)), None)) is not None:
        teacher_maps, student_maps = pieces.last_maps
        student = rows(pieces.student[-2](value), student_maps.channel_dim)
        regressor.weight.copy_(_fit(student, rows(pieces.teacher[len(seams)](value), teacher_maps.channel_dim)))


def _adapter_pair(seam: Seam) -> tuple[Adapter | None, Adapter | None]:
    to_student, to_teacher = (next(iter(adapters(side)), None) for side in (seam.to_student, seam.to_teacher))
    return to_student, to_teacher


def rows(value: Tensor, channel_dim: int) -> Tensor:
    """Reshape features to a matrix with one row of channels per position."""
    channels_last = value.movedim(channel_dim, -1)
    return channels_last.reshape(-1, channels_last.shape[-1])


def _fit(source: Tensor, target: Tensor) -> Tensor:
    """Return the weight [out, in] that maps `source` to `target` by ridge regression towards zero."""
    zeros = torch.zeros(target.shape[1], source.shape[1], device=source.device)
    return solve([(1.0, source, target)], zeros, _RIDGE).weight
