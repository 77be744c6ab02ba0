"""`graftcli compare`: recipes, students, shots and draws side by side, in one table and at one price."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graftcli.cli import options as o
from graftcli.cli import progress, render, render_compare
from graftcli.cli.asking import asked_by
from graftcli.cli.distill import Set, StepsScale, Strict, ValImages, command
from graftcli.cli.eval import Classes
from graftcli.cli.plan import BlocksCount, SplitStudent, SplitTeacher
from graftcli.errors import GateError, UsageError

if TYPE_CHECKING:
    from graftcli.report.comparison import Comparison

_GRID = "What is compared"


class Shots(tuple[int, ...]):
    """How many images each draw has; a class of its own, for Typer would make a tuple of several arguments."""


def shots_of(text: str) -> Shots:
    """`1,5,10` -> three numbers."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError(f"--shots {text!r} holds no numbers of images.", "Give numbers from 1: --shots 1,5,10")
    return Shots(dict.fromkeys(map(int, parts)))


Students = Annotated[
    list[str],
    o.option("--student", metavar="SPEC", rich_help_panel=_GRID, help="As in distill. Several: each is compared."),
]
Recipes = Annotated[
    list[str] | None,
    o.option(
        "--recipe", metavar="NAME|FILE", rich_help_panel=_GRID, help="Several: each is compared. Without it: graft."
    ),
]
Images = Annotated[
    list[str],
    o.option(
        "--images",
        metavar="DIR",
        rich_help_panel=_GRID,
        help="A folder or archive to draw from, or drawn ones: 'DIR/{shots}shot-draw{draw}', or one --images for each.",
    ),
]
ShotsFlag = Annotated[
    Shots | None,
    o.option(
        "--shots",
        parser=shots_of,
        metavar="1,5,10",
        rich_help_panel=_GRID,
        help="Images of each class folder; in all, where there are no class folders. Without it: all images.",
    ),
]
DrawsFlag = Annotated[
    int,
    o.option(
        "--draws",
        min=1,
        metavar="N",
        rich_help_panel=_GRID,
        help="Draws, with a seed each: that of --seed and those after it.",
    ),
]
Blocks = Annotated[
    list[str] | None,
    o.option(
        "--blocks",
        metavar="each|3|2-4",
        rich_help_panel=_GRID,
        help="Replace only some blocks, as in partial; `each`: every block alone, a line each.",
    ),
]
Test = Annotated[
    Path | None,
    o.option(
        "--test",
        metavar="DIR",
        rich_help_panel=o.IMAGES,
        help="Score each result on these: agreement, and accuracy where they lie in class folders.",
    ),
]
Steps = Annotated[
    int | None,
    o.option("--steps", min=1, metavar="N", rich_help_panel="Budget", help="Steps of each cell, over all its stages."),
]
Seconds = Annotated[
    float | None,
    o.option(
        "--seconds",
        min=1.0,
        metavar="S",
        rich_help_panel="Budget",
        help="Time of each cell: its steps are fixed after a short rehearsal, so that they end in time.",
    ),
]
Out = Annotated[
    Path | None,
    o.option("--out", metavar="DIR", rich_help_panel=o.OUTPUT, help="Its folder. Without it: runs/compare."),
]
Overwrite = Annotated[
    bool,
    o.option(
        "--overwrite", metavar="", rich_help_panel=o.OUTPUT, help="Make cells anew that were made with other settings."
    ),
]


def compare(
    ctx: typer.Context,
    teacher: o.Teacher,
    student: Students,
    images: Images,
    recipe: Recipes = None,
    shots: ShotsFlag = None,
    draws: DrawsFlag = 1,
    blocks: Blocks = None,
    test: Test = None,
    classes: Classes = None,
    steps: Steps = None,
    seconds: Seconds = None,
    steps_scale: StepsScale = 1.0,
    teacher_checkpoint: o.TeacherCheckpoint = None,
    student_checkpoint: o.StudentCheckpoint = None,
    num_classes: o.NumClasses = None,
    in_chans: o.InChans = None,
    blocks_count: BlocksCount = None,
    split_teacher: SplitTeacher = None,
    split_student: SplitStudent = None,
    ema: o.Ema = None,
    unsafe_load: o.UnsafeLoad = False,
    trust_code: o.TrustCode = False,
    img_size: o.ImageSize = None,
    mean: o.Mean = None,
    std: o.Std = None,
    crop_pct: o.CropPct = None,
    interpolation: o.Interpolation = None,
    val_images: ValImages = None,
    strict: Strict = False,
    set_: Set = None,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    amp: o.Amp = False,
    compile_: o.Compile = False,
    cache_gb: o.CacheGb = None,
    batch: o.StageBatch = None,
    jobs: o.Jobs = None,
    out: Out = None,
    overwrite: Overwrite = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Train several recipes or students on the same teacher, images and budget, and put them into one table.

    Each combination of recipe, student, shots and draw is a cell: an ordinary run's folder. Interrupt it at any time:
    the same command goes on. With more recipes, shots or draws in it, it takes the cells that are there as they are.

    Examples:
      graftcli compare --teacher resnet34 --student resnet18 --recipe graft --recipe kd --images ./photos --test ./val
      graftcli compare --teacher resnet34 --student resnet18 --images ./train --shots 1,5,10 --draws 3 --seconds 600
      graftcli compare --teacher resnet34 --student 'teacher*0.5' --student prune:l1=0.5 --images ./photos --steps 2000
      graftcli compare --teacher resnet34 --student resnet18 --blocks each --images ./photos --test ./val
    """
    from graftcli.api.comparing import compare as run
    from graftcli.comparison.budget import Budget
    from graftcli.comparison.grid import Grid

    alone = {"student": None, "images": None, "recipe": "graft"}  # what differs between the cells
    grid = Grid(tuple(recipe or ("graft",)), tuple(student), tuple(images), shots or (), draws, tuple(blocks or ()))
    with progress.listening(as_json=as_json, quiet=quiet) as listen:
        found = run(
            asked_by({**ctx.params, **alone}),
            grid,
            budget=Budget(steps, seconds),
            test=test,
            classes=classes,
            out=out,
            overwrite=overwrite,
            command=command(),
            listen=listen,
        )
    _tell(found, as_json=as_json)


def _tell(found: "Comparison", *, as_json: bool) -> None:
    """The table; a cell that came to nothing is an error, behind it."""
    from graftcli.api.comparing import comparison_json

    if as_json:
        render.document(comparison_json(found))
    else:
        render_compare.comparison(found)
    if faulty := [trial.name for trial in found.trials if trial.fault]:
        raise GateError(
            f"{len(faulty)} of {len(found.trials)} cells came to nothing: {', '.join(faulty)}.",
            "The table says why. The same command tries them again, and takes all others as they are.",
        )
