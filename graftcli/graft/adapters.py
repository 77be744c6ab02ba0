"""What adapters are before they are trained: the identity, the least-squares solution, or random numbers."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from graftcli.graft.seams import Adapter, Seam
from graftcli.graft.stages import Pieces
from graftcli.nets.cuts import Position
from graftcli.nets.plan import Plan

_RIDGE = 1e-3  # of the mean of the diagonal: keeps few images from being fitted exactly


@torch.no_grad()
def start_adapters(
    start: Literal["identity", "least-squares", "random"],
    plan: Plan,
    seams: Sequence[Seam],
    pieces: Pieces,
    images: Tensor,
    seed: int,
) -> None:
    """Give every adapter its first weights; `images` are what the networks see. Adapters are made as identities."""
    if start == "random":
        generator = torch.Generator().manual_seed(seed)
        for seam in seams:
            for adapter in adapters(seam):
                spread = torch.randn(adapter.weight.shape, generator=generator) / adapter.weight.shape[1] ** 0.5
                adapter.weight.copy_(spread)
    elif start == "least-squares":
        _solve_all(plan, seams, pieces, images)


def adapters(module: nn.Module) -> list[Adapter]:
    return [m for m in module.modules() if isinstance(m, Adapter)]


def _solve_all(plan: Plan, seams: Sequence[Seam], pieces: Pieces, images: Tensor) -> None:
    """Between each student block's first output, on the teacher's features, and what the teacher gives there."""
    value = images
    for k, seam in enumerate(seams, 1):
        given = plan.student.blocks[k - 1](seams[k - 2].to_student(value) if k > 1 else value)
        value = pieces.teacher[k - 1](value)
        theirs, ours = rows(given, seam.theirs), rows(value, seam.ours)
        for adapter, (source, goal) in zip(_both(seam), ((ours, theirs), (theirs, ours)), strict=True):
            if adapter is not None:
                adapter.weight.copy_(solved(source, goal))
    if pieces.last_maps is not None and (regressor := next(iter(adapters(pieces.regressor)), None)) is not None:
        our_place, their_place = pieces.last_maps
        given = rows(pieces.student[-2](value), their_place)
        regressor.weight.copy_(solved(given, rows(pieces.teacher[len(seams)](value), our_place)))


def _both(seam: Seam) -> tuple[Adapter | None, Adapter | None]:
    found = [next(iter(adapters(side)), None) for side in (seam.to_student, seam.to_teacher)]
    return found[0], found[1]


def rows(value: Tensor, place: Position) -> Tensor:
    """One row of channels for each place of each map."""
    last = value.movedim(place.channel_dim, -1)
    return last.reshape(-1, last.shape[-1])


def solved(source: Tensor, goal: Tensor) -> Tensor:
    """The weight W [out, in] with the least |source Wᵀ - goal|², and a little ridge; solved in float64."""
    a, b = source.double(), goal.double()
    gram = a.T @ a
    gram.diagonal().add_(_RIDGE * gram.diagonal().mean())
    weight: Tensor = torch.linalg.solve(gram, a.T @ b).T
    return weight.to(source.dtype)
