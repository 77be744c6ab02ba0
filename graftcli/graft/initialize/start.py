"""What a run begins with: adapters that join the networks and, where a student's layers are the teacher's and some have
lost something, each layer solved for, so that what one has lost is not lost in all that follow."""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor

from graftcli.errors import few
from graftcli.events import Listener, Warned
from graftcli.graft.data.view_counts import chunk_of
from graftcli.graft.initialize.adapters import start_adapters
from graftcli.graft.layerwise.layer_pairs import LayerPair, layers_of
from graftcli.graft.layerwise.stage import left_of, numbers_of, side_by_side
from graftcli.graft.layerwise.whole_layer import fits_in_rows, solve_whole
from graftcli.graft.surgery.seams import Seam
from graftcli.graft.training.tasks import Pieces
from graftcli.models.cuts.plan import Plan
from graftcli.models.derivation import kept_of
from graftcli.recipe import Recipe


def start(
    recipe: Recipe,
    plan: Plan,
    joined: Sequence[Seam],
    pieces: Pieces,
    chosen: Sequence[int],
    images: Tensor,
    views: Callable[[], Tensor],
    seed: int,
    listen: Listener,
    frozen: Sequence[int] = (),
) -> None:
    """Adapters as the recipe has them at first, from images as they are; layers from views of them.

    Solved for are the chosen blocks and all before them: each begins behind the adapters that those before it led to.
    `frozen` blocks are the teacher's and stay so.
    """
    kept = {one.layer: one for one in kept_of(plan.student.network)} if recipe.init == "least-squares" else {}
    open_ = [block for block in range(1, max(chosen) + 1) if block not in frozen]
    needed = numbers_of(open_, pieces) if open_ else []
    layers = {k: list(layers_of(pieces, k, kept)) for k in needed}
    if not any(map(_has_lost, chain.from_iterable(layers.values()))):
        start_adapters(recipe.adapters.start, plan, joined, pieces, images, seed)
        return
    blocks = _Blocks(pieces, layers, views())
    start_adapters(recipe.adapters.start, plan, joined, pieces, images, seed, blocks.solve)
    if left := left_of(pieces, layers, kept, fits_in_rows):
        count = sum(map(len, blocks.layers.values()))
        listen(Warned(f"{count} layers are solved for at first, and {len(left)} stay as they are: {few(left)}"))


def _has_lost(layer: LayerPair) -> bool:
    """Whether it has fewer channels than the teacher's, or is taken apart."""
    return bool(layer.row) or layer.last.weight.shape != layer.theirs.weight.shape


class _Blocks:
    """The student's blocks, one after another, each on the teacher's features, as it is trained."""

    def __init__(self, pieces: Pieces, layers: Mapping[int, Sequence[LayerPair]], views: Tensor) -> None:
        self.pieces = pieces
        self.layers = {k: [layer for layer in here if fits_in_rows(layer)] for k, here in layers.items()}
        self.values: Sequence[Tensor] = views.split(chunk_of(pieces.shapes, views.device))

    @torch.no_grad()
    def solve(self, block: int) -> None:
        if block in self.layers:
            layers = {k: self.layers[k] for k in numbers_of((block,), self.pieces)}
            self.values = side_by_side(self.pieces, layers, self.values, solve_whole)
        elif block < max(self.layers):
            self.values = [self.pieces.teacher[block - 1](value) for value in self.values]
