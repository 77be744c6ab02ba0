"""The grid of a comparison: draws, methods, and cells. Each cell is a run in its own folder."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from graftcli.comparison.fingerprint import file_stats
from graftcli.errors import ImagesError, UsageError
from graftcli.images.sampling import draw_images
from graftcli.images.sources import open_source
from graftcli.runs.config import RunConfig
from graftcli.store.atomic import write_bytes

SHOTS, DRAW = "{shots}", "{draw}"
EACH = "each"


@dataclass(frozen=True)
class Grid:
    """The axes of a comparison: recipes x students (or choices of blocks) x shots x draws.

    `images` is one folder to draw `shots` from, or a pattern of existing draws such as
    photos/{shots}shot-draw{draw}, or several folders, one per draw. Each draw also has its own seed.
    """

    recipes: tuple[str, ...] = ("graft",)
    students: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    shots: tuple[int, ...] = ()
    draws: int = 1
    blocks: tuple[str, ...] = ()  # as for `partial`, or "each"; () replaces all blocks


@dataclass(frozen=True)
class Draw:
    """The images of one draw; `shots` counts images per class or in all, see `Draws.meaning`."""

    shots: int
    index: int  # counts from 0 for each number of shots
    folder: Path


@dataclass(frozen=True)
class Draws:
    """The draws of a comparison, and what a shot means."""

    every: tuple[Draw, ...]
    meaning: str  # what a shot counts


def draws_of(grid: Grid, out: Path) -> Draws:
    """Return all draws; sample those that do not exist yet into `out`."""
    if not grid.images:
        raise UsageError("no images are given.", "Give a folder with --images.")
    pattern = grid.images[0]
    if len(grid.images) > 1:
        return _from_folders(grid)
    if SHOTS in pattern or DRAW in pattern:
        return _from_pattern(grid, pattern)
    if not grid.shots:
        count = _count(Path(pattern))
        every = tuple(Draw(count, i, Path(pattern)) for i in range(grid.draws))
        return Draws(every, "images in all; the draws differ only in their seeds")
    return _draw(grid, Path(pattern), out)


def _from_folders(grid: Grid) -> Draws:
    """Use several folders, each as a draw; folders with equal numbers of images have the same shots."""
    if grid.shots or grid.draws > 1:
        raise UsageError(
            f"--images is given {len(grid.images)} times, and --shots or --draws is given too.",
            "Give one folder to draw from, or leave out --shots and --draws: each folder is a draw.",
        )
    counts = [_count(Path(name)) for name in grid.images]
    draws: Counter[int] = Counter()
    every = []
    for name, count in zip(grid.images, counts, strict=True):
        every.append(Draw(count, draws[count], Path(name)))
        draws[count] += 1
    return Draws(tuple(sorted(every, key=lambda draw: draw.shots)), "images in all")


def _from_pattern(grid: Grid, pattern: str) -> Draws:
    """Find existing draws by the pattern of their folder names."""
    if SHOTS in pattern and not grid.shots:
        raise UsageError(f"--images `{pattern}` needs --shots.", "Give the numbers of shots, such as --shots 1,5,10")
    if SHOTS not in pattern and len(grid.shots) > 1:
        raise UsageError(f"--images `{pattern}` names the same folder for all --shots.", f"Add {SHOTS} to it.")
    shots = grid.shots or (_count(Path(pattern.replace(DRAW, "0"))),)
    every = tuple(
        Draw(count, i, Path(pattern.replace(SHOTS, str(count)).replace(DRAW, str(i))))
        for count in shots
        for i in range(grid.draws)
    )
    if missing := [f"`{draw.folder}`" for draw in every if not draw.folder.expanduser().exists()]:
        raise ImagesError(
            f"--images `{pattern}` names folders that do not exist: {', '.join(missing)}.",
            f"Correct the name, or give --shots and --draws that exist; they replace {SHOTS} and {DRAW}.",
        )
    return Draws(every, "as in the folder names" if grid.shots else "images in all")


def _draw(grid: Grid, source: Path, out: Path) -> Draws:
    """Sample each draw from one folder, unless it was sampled before."""
    if too_small := [count for count in grid.shots if count < 1]:
        raise UsageError(f"--shots {too_small[0]} is too small.", "Give numbers from 1: --shots 1,5,10")
    # the key includes the files of the source, so that a changed source is sampled again
    inputs = [str(source.expanduser().absolute()), file_stats(str(source))]
    key = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:8]
    every, classes = [], 1
    for count in grid.shots:
        for i in range(grid.draws):
            folder = out / "images" / f"{count}shot-draw{i}-{key}"
            if not folder.exists():
                _write_draw(folder, source, count, i)
            classes = len(list(folder.iterdir())) // count
            every.append(Draw(count, i, folder))
    folders = f"{classes} class folders" if classes > 1 else "no class folders"
    meaning = "images per class" if classes > 1 else "images in all"
    return Draws(tuple(every), f"{meaning}, drawn from `{source}`, which has {folders}")


def _write_draw(folder: Path, source: Path, shots: int, draw: int) -> None:
    """Write the images of a draw into one flat folder, which is renamed once it is complete."""
    temporary = folder.with_name(f".{folder.name}")
    for image in draw_images(source, shots, draw):
        write_bytes(temporary / image.name, image.data)
    temporary.rename(folder)


def _count(folder: Path) -> int:
    with open_source(folder) as opened:
        return len(opened.entries)


# -- cells --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """A recipe with a student; with `blocks`, only these are trained."""

    recipe: str
    student: str
    blocks: str | None = None

    @property
    def label(self) -> str:
        """The name of the recipe, or the stem of its file."""
        return Path(self.recipe).stem if self.recipe.endswith((".yaml", ".yml")) else self.recipe

    @property
    def student_label(self) -> str:
        """The student's name in tables."""
        return label_of(self.student)

    @property
    def name(self) -> str:
        """The label of the method as a part of a folder name."""
        parts = [self.label, self.student_label.replace("*", "x"), *([f"blocks-{self.blocks}"] if self.blocks else [])]
        return "-".join(re.sub(r"[^\w.]+", "-", part).strip("-") for part in parts)


@dataclass(frozen=True)
class Cell:
    """One run of a comparison: a method on a draw."""

    method: Method
    draw: Draw

    @property
    def name(self) -> str:
        """The name of the cell's folder."""
        return f"{self.method.name}-{self.draw.shots}shot-draw{self.draw.index}"

    def config(self, shared: RunConfig) -> RunConfig:
        """Return the config of this cell's run from the config that all cells share."""
        options = replace(shared.how, recipe=self.method.recipe, seed=shared.how.seed + self.draw.index)
        networks = replace(shared.networks, student=self.method.student)
        return replace(shared, networks=networks, images=str(self.draw.folder), how=options)


def label_of(spec: str) -> str:
    """Return a model spec without folders and file name, such as ``resnet(depth=20)``."""
    name, bracket, arguments = spec.partition("(")
    return f"{re.sub(r'.*[.]py:', '', name.rstrip('/').rsplit('/', 1)[-1])}{bracket}{arguments}"


def methods_of(grid: Grid, blocks_of: Callable[[str], int]) -> tuple[Method, ...]:
    """Return all combinations of recipe, student and choice of blocks; raise if two would share a folder name.

    `blocks_of` returns the number of blocks of a student, for ``"each"``.
    """
    if not grid.students:
        raise UsageError("no student is given.", "Give one with --student.")
    every = tuple(
        Method(recipe, student, part)
        for student in dict.fromkeys(grid.students)
        for recipe in dict.fromkeys(grid.recipes)
        for part in _block_choices(grid.blocks, student, blocks_of)
    )
    duplicates = [name for name, count in Counter(method.name for method in every).items() if count > 1]
    if duplicates:
        raise UsageError(
            f"several methods would have the name {', '.join(duplicates)}.",
            "Give each recipe file its own name, and each choice of --blocks only once.",
        )
    return every


def _block_choices(blocks: Sequence[str], student: str, blocks_of: Callable[[str], int]) -> list[str | None]:
    """Expand --blocks: ``"each"`` becomes one choice per block; None means all blocks."""
    choices: list[str | None] = []
    for part in blocks:
        choices += [str(block) for block in range(1, blocks_of(student) + 1)] if part == EACH else [part]
    return list(dict.fromkeys(choices)) or [None]


def cells_of(methods: Sequence[Method], draws: Draws) -> Iterator[Cell]:
    """Yield the cells draw by draw, so that all methods appear in the table early."""
    for draw in sorted(draws.every, key=lambda draw: draw.index):
        for method in methods:
            yield Cell(method, draw)
