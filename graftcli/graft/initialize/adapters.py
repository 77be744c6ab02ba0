"""What adapters are before they are trained: the identity, the least-squares solution, or random numbers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from graftcli.graft.surgery.seams import Adapter, Seam
from graftcli.graft.training.tasks import Pieces
from graftcli.models.channel_selection import ChannelSelection
from graftcli.models.cuts.plan import Plan
from graftcli.models.cuts.positions import Position
from graftcli.models.derivation import kept_of
from graftcli.models.least_squares import solved

_RIDGE = 1e-3  # of the mean of the diagonal: keeps few images from being fitted exactly


@torch.no_grad()
def start_adapters(
    start: Literal["identity", "least-squares", "random"],
    plan: Plan,
    seams: Sequence[Seam],
    pieces: Pieces,
    images: Tensor,
    seed: int,
    reached: Callable[[int], None] = lambda block: None,
) -> None:
    """Give every adapter its first weights; `images` are what the networks see.

    The identity of a student that is made from the teacher are the channels which it has kept: the way there and back
    changes nothing for it. `reached` is called for each block in order, when what leads into it is as it will be, and
    before anything is made of what it gives.
    """
    if start == "least-squares":
        _solve_all(plan, seams, pieces, images, reached)
        return
    if start == "identity":
        _select_all(plan, seams)
    else:
        generator = torch.Generator().manual_seed(seed)
        for seam in seams:
            for adapter in adapters(seam):
                spread = torch.randn(adapter.weight.shape, generator=generator) / adapter.weight.shape[1] ** 0.5
                adapter.weight.copy_(spread)
    for block in range(1, pieces.blocks + 1):
        reached(block)


def adapters(module: nn.Module) -> list[Adapter]:
    return [m for m in module.modules() if isinstance(m, Adapter)]


def _select_all(plan: Plan, seams: Sequence[Seam]) -> None:
    kept = {one.layer: one for one in kept_of(plan.student.network)}
    for seam in seams:
        channels = _kept_at(seam.theirs, kept)
        to_student, to_teacher = _both(seam)
        if channels is None or to_student is None or to_teacher is None:
            continue
        selection = torch.eye(seam.ours.channels)[list(channels)].to(to_student.weight)
        if selection.shape == to_student.weight.shape:
            to_student.weight.copy_(selection)
            to_teacher.weight.copy_(selection.T)


def _kept_at(place: Position, kept: Mapping[str, ChannelSelection]) -> tuple[int, ...] | None:
    """The teacher's channels that a map of the student holds: those which the layers behind it read."""
    found = [kept[layer.path].inputs for layer in place.forwards.layers if layer.path in kept]
    return found[0] if found and not place.forwards.blocker else None


def _solve_all(
    plan: Plan, seams: Sequence[Seam], pieces: Pieces, images: Tensor, reached: Callable[[int], None]
) -> None:
    """Between each student block's first output, on the teacher's features, and what the teacher gives there."""
    value = images
    for k, seam in enumerate(seams, 1):
        reached(k)
        given = plan.student.blocks[k - 1](seams[k - 2].to_student(value) if k > 1 else value)
        value = pieces.teacher[k - 1](value)
        theirs, ours = rows(given, seam.theirs.channel_dim), rows(value, seam.ours.channel_dim)
        for adapter, (source, goal) in zip(_both(seam), ((ours, theirs), (theirs, ours)), strict=True):
            if adapter is not None:
                adapter.weight.copy_(_nearest(source, goal))
    reached(pieces.blocks)
    if pieces.last_maps is not None and (regressor := next(iter(adapters(pieces.regressor)), None)) is not None:
        our_place, their_place = pieces.last_maps
        given = rows(pieces.student[-2](value), their_place.channel_dim)
        regressor.weight.copy_(_nearest(given, rows(pieces.teacher[len(seams)](value), our_place.channel_dim)))


def _both(seam: Seam) -> tuple[Adapter | None, Adapter | None]:
    found = [next(iter(adapters(side)), None) for side in (seam.to_student, seam.to_teacher)]
    return found[0], found[1]


def rows(value: Tensor, channel_dim: int) -> Tensor:
    """One row of channels for each place of each map."""
    last = value.movedim(channel_dim, -1)
    return last.reshape(-1, last.shape[-1])


def _nearest(source: Tensor, goal: Tensor) -> Tensor:
    """The weight [out, in] that makes the goal of the source, as nearly as it goes."""
    nothing = torch.zeros(goal.shape[1], source.shape[1], device=source.device)
    return solved([(1.0, source, goal)], nothing, _RIDGE).weight
