"""What a comparison is made of: draws, methods, and the cells, each of which is a run with a folder of its own."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from graftcli.comparison.fingerprint import state_of
from graftcli.errors import ImagesError, UsageError
from graftcli.images.sampling import drawn
from graftcli.images.sources import opened
from graftcli.runs.config import RunConfig
from graftcli.store.atomic import write_bytes

SHOTS, DRAW = "{shots}", "{draw}"
EACH = "each"


@dataclass(frozen=True)
class Grid:
    """What is compared: each recipe with each student (or each of its `blocks`), on all draws of all shots.

    `images` is one folder to draw `shots` from, or the name of folders that were drawn already, as
    photos/{shots}shot-draw{draw}, or several folders, each a draw. A draw has a seed of its own too.
    """

    recipes: tuple[str, ...] = ("graft",)
    students: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    shots: tuple[int, ...] = ()
    draws: int = 1
    blocks: tuple[str, ...] = ()  # as `partial` takes them, or "each"; none: the whole student


@dataclass(frozen=True)
class Draw:
    """The images of one draw. `shots` are images of a class or images in all, as `Draws.meaning` tells."""

    shots: int
    index: int  # from 0 for each number of shots
    folder: Path


@dataclass(frozen=True)
class Draws:
    every: tuple[Draw, ...]
    meaning: str  # what a shot is


def draws_of(grid: Grid, out: Path) -> Draws:
    """The images of every draw, drawn into `out` where they are not drawn yet."""
    if not grid.images:
        raise UsageError("no images are named.", "Name a folder of them with --images.")
    pattern = grid.images[0]
    if len(grid.images) > 1:
        return _given(grid)
    if SHOTS in pattern or DRAW in pattern:
        return _found(grid, pattern)
    if not grid.shots:
        count = _count(Path(pattern))
        every = tuple(Draw(count, i, Path(pattern)) for i in range(grid.draws))
        return Draws(every, "images in all; the draws differ by their seeds alone")
    return _drawn(grid, Path(pattern), out)


def _given(grid: Grid) -> Draws:
    """Several folders, each a draw; those with as many images belong together."""
    if grid.shots or grid.draws > 1:
        raise UsageError(
            f"--images names {len(grid.images)} folders, and --shots or --draws is given too.",
            "Name one folder to draw from, or leave them out: each of several folders is a draw.",
        )
    counts = [_count(Path(name)) for name in grid.images]
    seen: Counter[int] = Counter()
    every = []
    for name, count in zip(grid.images, counts, strict=True):
        every.append(Draw(count, seen[count], Path(name)))
        seen[count] += 1
    return Draws(tuple(sorted(every, key=lambda draw: draw.shots)), "images in all")


def _found(grid: Grid, pattern: str) -> Draws:
    """Folders that were drawn already, by their names."""
    if SHOTS in pattern and not grid.shots:
        raise UsageError(f"--images `{pattern}` needs numbers of shots.", "Give them: --shots 1,5,10")
    if SHOTS not in pattern and len(grid.shots) > 1:
        raise UsageError(f"--images `{pattern}` is the same for all of --shots.", f"Put {SHOTS} into it.")
    shots = grid.shots or (_count(Path(pattern.replace(DRAW, "0"))),)
    every = tuple(
        Draw(count, i, Path(pattern.replace(SHOTS, str(count)).replace(DRAW, str(i))))
        for count in shots
        for i in range(grid.draws)
    )
    if missing := [f"`{draw.folder}`" for draw in every if not draw.folder.expanduser().exists()]:
        raise ImagesError(
            f"--images `{pattern}` names folders that are not there: {', '.join(missing)}.",
            f"Mend the name, or ask for the --shots and --draws that there are; {SHOTS} and {DRAW} stand for them.",
        )
    said = "as the folders' names have it" if grid.shots else "images in all"
    return Draws(every, said)


def _drawn(grid: Grid, source: Path, out: Path) -> Draws:
    """One folder, from which each draw takes its images once."""
    if faulty := [count for count in grid.shots if count < 1]:
        raise UsageError(f"--shots {faulty[0]} draws nothing.", "Give numbers from 1: --shots 1,5,10")
    # with other files in it the source is another one: what was drawn of the earlier is not drawn of this
    known = [str(source.expanduser().absolute()), state_of(str(source))]
    mark = hashlib.sha256(json.dumps(known).encode()).hexdigest()[:8]
    every, classes = [], 1
    for count in grid.shots:
        for i in range(grid.draws):
            folder = out / "images" / f"{count}shot-draw{i}-{mark}"
            if not folder.exists():
                _write(folder, source, count, i)
            classes = len(list(folder.iterdir())) // count
            every.append(Draw(count, i, folder))
    folders = f"{classes} class folders" if classes > 1 else "no class folders"
    meaning = "images of a class" if classes > 1 else "images in all"
    return Draws(tuple(every), f"{meaning}, drawn from `{source}`, which has {folders}")


def _write(folder: Path, source: Path, shots: int, draw: int) -> None:
    """The draw's images, flat and without a class; the folder is whole as soon as it has its name."""
    beside = folder.with_name(f".{folder.name}")
    for one in drawn(source, shots, draw):
        write_bytes(beside / one.name, one.data)
    beside.rename(folder)


def _count(folder: Path) -> int:
    with opened(folder) as found:
        return len(found.entries)


# -- cells --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """A recipe with a student, of which all or only some blocks are trained."""

    recipe: str
    student: str
    blocks: str | None = None

    @property
    def label(self) -> str:
        """The recipe's name, or that of its file."""
        return Path(self.recipe).stem if self.recipe.endswith((".yaml", ".yml")) else self.recipe

    @property
    def student_label(self) -> str:
        return label_of(self.student)

    @property
    def name(self) -> str:
        """That may stand in a folder's name."""
        parts = [self.label, self.student_label.replace("*", "x"), *([f"blocks-{self.blocks}"] if self.blocks else [])]
        return "-".join(re.sub(r"[^\w.]+", "-", part).strip("-") for part in parts)


@dataclass(frozen=True)
class Cell:
    method: Method
    draw: Draw

    @property
    def name(self) -> str:
        return f"{self.method.name}-{self.draw.shots}shot-draw{self.draw.index}"

    def asked(self, common: RunConfig) -> RunConfig:
        """What its run is asked for: what is common to all cells, with what is its own."""
        how = common.how
        own = replace(how, recipe=self.method.recipe, seed=how.seed + self.draw.index)
        networks = replace(common.networks, student=self.method.student)
        return replace(common, networks=networks, images=str(self.draw.folder), how=own)


def label_of(spec: str) -> str:
    """What was typed for a network, without the folders and files in front: resnet(depth=20)"""
    front, bracket, words = spec.partition("(")
    return f"{re.sub(r'.*[.]py:', '', front.rstrip('/').rsplit('/', 1)[-1])}{bracket}{words}"


def methods_of(grid: Grid, blocks_of: Callable[[str], int]) -> tuple[Method, ...]:
    """Each recipe with each student and each of the `blocks`; the names of their folders differ.

    `blocks_of` counts a student's blocks, where each of them is wanted.
    """
    if not grid.students:
        raise UsageError("no student is named.", "Name one with --student.")
    every = tuple(
        Method(recipe, student, part)
        for student in dict.fromkeys(grid.students)
        for recipe in dict.fromkeys(grid.recipes)
        for part in _parts(grid.blocks, student, blocks_of)
    )
    again = [name for name, count in Counter(method.name for method in every).items() if count > 1]
    if again:
        raise UsageError(
            f"several methods would be called {', '.join(again)}.",
            "Give recipes' files names of their own, and each choice of --blocks once.",
        )
    return every


def _parts(blocks: Sequence[str], student: str, blocks_of: Callable[[str], int]) -> list[str | None]:
    """What is replaced: each block alone where that is said, or the blocks that are said, or all."""
    found: list[str | None] = []
    for part in blocks:
        found += [str(block) for block in range(1, blocks_of(student) + 1)] if part == EACH else [part]
    return list(dict.fromkeys(found)) or [None]


def cells_of(methods: Sequence[Method], draws: Draws) -> Iterator[Cell]:
    """Draw after draw, so that a table with all of the methods is there as soon as one can be."""
    for draw in sorted(draws.every, key=lambda one: one.index):
        for method in methods:
            yield Cell(method, draw)
