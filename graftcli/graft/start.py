"""What a run begins with: adapters that join the networks and, where a student's layers are the teacher's, each solved
for, so that what one has lost is not lost in all that follow."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from graftcli.graft.adapters import start_adapters
from graftcli.graft.counterparts import layers_of
from graftcli.graft.layerwise import numbers_of, side_by_side
from graftcli.graft.seams import Seam
from graftcli.graft.stages import Pieces
from graftcli.graft.whole_layer import is_solvable, solve_whole
from graftcli.nets.derived import kept_of
from graftcli.nets.kept import Kept
from graftcli.nets.plan import Plan
from graftcli.recipe import Recipe

_RIDGE = 1e-2  # of the mean of the diagonal: keeps few images from being fitted exactly
_CHUNK = 16  # views that run at once


def start(
    recipe: Recipe,
    plan: Plan,
    joined: Sequence[Seam],
    pieces: Pieces,
    images: Tensor,
    views: Callable[[], Tensor],
    seed: int,
) -> None:
    """Adapters as the recipe has them at first, from images as they are; layers from views of them."""
    kept = {one.layer: one for one in kept_of(plan.student.network)}
    if recipe.init == "least-squares" and kept:
        blocks = _Blocks(pieces, kept, list(views().split(_CHUNK)))
        start_adapters(recipe.adapters.start, plan, joined, pieces, images, seed, blocks.solve)
    else:
        start_adapters(recipe.adapters.start, plan, joined, pieces, images, seed)


class _Blocks:
    """The student's blocks, one after another, each on the teacher's features, as it is trained."""

    def __init__(self, pieces: Pieces, kept: dict[str, Kept], values: list[Tensor]) -> None:
        self.pieces, self.kept, self.values = pieces, kept, values

    @torch.no_grad()
    def solve(self, block: int) -> None:
        layers = {
            k: [layer for layer in layers_of(self.pieces, k, self.kept) if is_solvable(layer)]
            for k in numbers_of((block,), self.pieces)
        }
        side_by_side(self.pieces, layers, self.values, lambda layer, seen: solve_whole(layer, seen, _RIDGE))
        self.values = [self.pieces.teacher[block - 1](value) for value in self.values]
