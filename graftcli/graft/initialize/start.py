"""Initialises adapters and, for students that are derived from the teacher, solves narrowed layers by least squares.

Each layer is solved on the outputs of the solved layers before it, so that errors do not accumulate.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from graftcli.errors import few
from graftcli.events import Listener, Warned
from graftcli.graft.data.chunking import chunk_size
from graftcli.graft.initialize.adapters import initialize_adapters
from graftcli.graft.layerwise.layer_pairs import LayerPair, layer_pairs
from graftcli.graft.layerwise.stage import piece_numbers, run_side_by_side, unfitted_layers
from graftcli.graft.layerwise.whole_layer import fits_in_rows, solve_whole
from graftcli.graft.surgery.seams import Seam
from graftcli.graft.training.pieces import Pieces
from graftcli.models.cuts.plan import Plan
from graftcli.models.derivation import selections_of
from graftcli.recipe import Recipe


@dataclass(frozen=True)
class StartImages:
    """The images that a student is initialised from, normalised."""

    images: Tensor  # for the adapters
    views: Callable[[], Tensor]  # for the layers; computed only if a layer is solved


def initialize(
    recipe: Recipe,
    plan: Plan,
    seams: Sequence[Seam],
    pieces: Pieces,
    blocks: Sequence[int],
    start: StartImages,
    seed: int,
    listen: Listener,
) -> None:
    """Initialise the adapters and, if the recipe specifies it, solve the layers of the `blocks`.

    Each block is solved on the teacher's features, after the adapters that lead into it.
    """
    solves = recipe.init == "least-squares"
    selections = {selection.layer: selection for selection in selections_of(plan.student.network)} if solves else {}
    numbers = piece_numbers(blocks, pieces) if blocks else []
    layers = {k: list(layer_pairs(pieces, k, selections)) for k in numbers}
    if not any(map(_is_reduced, chain.from_iterable(layers.values()))):
        initialize_adapters(recipe.adapters.start, plan, seams, pieces, start.images, seed)
        return
    solver = _BlockSolver(pieces, layers, start.views())
    initialize_adapters(recipe.adapters.start, plan, seams, pieces, start.images, seed, solver.solve)
    if unsolved := unfitted_layers(pieces, layers, selections, fits_in_rows):
        solved = sum(map(len, solver.layers.values()))
        text = f"least squares initialises {solved} of {solved + len(unsolved)} layers"
        listen(Warned(f"{text}; skipped: {few(unsolved)}"))


def _is_reduced(layer: LayerPair) -> bool:
    """Whether the layer has fewer channels than the teacher's, or is a sequence of factors of it."""
    return bool(layer.preceding) or layer.last.weight.shape != layer.teacher.weight.shape


class _BlockSolver:
    """Solves the layers of the student's blocks, one block after another, each on the teacher's features."""

    def __init__(self, pieces: Pieces, layers: Mapping[int, Sequence[LayerPair]], views: Tensor) -> None:
        self.pieces = pieces
        self.layers = {k: [pair for pair in pairs if fits_in_rows(pair)] for k, pairs in layers.items()}
        self.values: Sequence[Tensor] = views.split(chunk_size(pieces.shapes, views.device))

    @torch.no_grad()
    def solve(self, block: int) -> None:
        """Solve the layers of a block, or run the teacher's block to reach the next."""
        if block in self.layers:
            layers = {k: self.layers[k] for k in piece_numbers((block,), self.pieces)}
            self.values = run_side_by_side(self.pieces, layers, self.values, solve_whole)
        elif block < max(self.layers):
            self.values = [self.pieces.teacher[block - 1](value) for value in self.values]
