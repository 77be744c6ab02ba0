"""`graftcli compare`: train recipes, students, shots and draws on the same budget and tabulate the results."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graftcli.cli import options as o
from graftcli.cli import progress, render, render_compare
from graftcli.cli.arguments import keywords
from graftcli.cli.distill import Set, StepsScale, Strict, ValImages, command
from graftcli.cli.eval import Classes
from graftcli.cli.plan import BlocksCount, SplitStudent, SplitTeacher
from graftcli.errors import GateError, UsageError

if TYPE_CHECKING:
    from graftcli.report.comparison import Comparison

_GRID = "Comparison"


class Shots(tuple[int, ...]):
    """Images per draw; a subclass, because Typer parses a plain tuple as several arguments."""


def shots_of(text: str) -> Shots:
    """Parse comma-separated numbers, such as `1,5,10`."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError(f"--shots {text!r} is not a list of positive numbers.", "Give numbers such as --shots 1,5,10.")
    return Shots(dict.fromkeys(map(int, parts)))


Students = Annotated[
    list[str],
    o.option("--student", metavar="SPEC", rich_help_panel=_GRID, help="As in distill; repeat to compare several."),
]
Recipes = Annotated[
    list[str] | None,
    o.option("--recipe", metavar="NAME|FILE", rich_help_panel=_GRID, help="Repeat to compare several. Default: graft."),
]
Images = Annotated[
    list[str],
    o.option(
        "--images",
        metavar="DIR",
        rich_help_panel=_GRID,
        help="Folder or archive to draw from. Existing draws: 'DIR/{shots}shot-draw{draw}', or one --images each.",
    ),
]
ShotsFlag = Annotated[
    Shots | None,
    o.option(
        "--shots",
        parser=shots_of,
        metavar="1,5,10",
        rich_help_panel=_GRID,
        help="Images per class folder, or in total if there are no class folders. Default: all images.",
    ),
]
DrawsFlag = Annotated[
    int,
    o.option(
        "--draws",
        min=1,
        metavar="N",
        rich_help_panel=_GRID,
        help="Number of draws, with the seeds --seed, --seed + 1 and so on.",
    ),
]
Blocks = Annotated[
    list[str] | None,
    o.option(
        "--blocks",
        metavar="each|3|2-4",
        rich_help_panel=_GRID,
        help="Replace only some blocks, as in partial; `each` replaces every block separately.",
    ),
]
Test = Annotated[
    Path | None,
    o.option(
        "--test",
        metavar="DIR",
        rich_help_panel=o.IMAGES,
        help="Test images for agreement, and for accuracy if they are in class folders.",
    ),
]
Steps = Annotated[
    int | None,
    o.option("--steps", min=1, metavar="N", rich_help_panel="Budget", help="Training steps per cell, over all stages."),
]
Seconds = Annotated[
    float | None,
    o.option(
        "--seconds",
        min=1.0,
        metavar="S",
        rich_help_panel="Budget",
        help="Training time per cell; a short profiling run sets the number of steps.",
    ),
]
Out = Annotated[
    Path | None,
    o.option("--out", metavar="DIR", rich_help_panel=o.OUTPUT, help="Output folder. Default: runs/compare."),
]
Overwrite = Annotated[
    bool,
    o.option(
        "--overwrite", metavar="", rich_help_panel=o.OUTPUT, help="Retrain cells that were trained with other settings."
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
    amp: o.Amp = None,
    compile_: o.Compile = False,
    cache_gb: o.CacheGb = None,
    device_cache_gb: o.DeviceCacheGb = None,
    batch: o.StageBatch = None,
    jobs: o.Jobs = None,
    out: Out = None,
    overwrite: Overwrite = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Train several recipes or students on the same teacher, images and budget, and compare them in one table.

    Each combination of recipe, student, shots and draw is a cell: an ordinary run. Interrupt at any time; the same
    command resumes. With more recipes, shots or draws, it reuses the finished cells.

    Examples:
      graftcli compare --teacher resnet34 --student resnet18 --recipe graft --recipe kd --images ./photos --test ./val
      graftcli compare --teacher resnet34 --student resnet18 --images ./train --shots 1,5,10 --draws 3 --seconds 600
      graftcli compare --teacher resnet34 --student 'teacher*0.5' --student prune:l1=0.5 --images ./photos --steps 2000
      graftcli compare --teacher resnet34 --student resnet18 --blocks each --images ./photos --test ./val
    """
    from graftcli.api.comparing import compare as run

    given = keywords(ctx.params) | {"recipe": recipe or "graft", "shots": shots or (), "blocks": blocks or ()}
    with progress.listening(as_json=as_json, quiet=quiet) as listen:
        comparison = run(**given, command=command(), listen=listen)
    _print_comparison(comparison, as_json=as_json)


def _print_comparison(comparison: "Comparison", *, as_json: bool) -> None:
    """Print the table, then raise if any cell failed."""
    from graftcli.comparison.running import comparison_json

    if as_json:
        render.document(comparison_json(comparison))
    else:
        render_compare.comparison(comparison)
    if failed := [trial.name for trial in comparison.trials if trial.fault]:
        raise GateError(
            f"{len(failed)} of {len(comparison.trials)} cells failed: {', '.join(failed)}.",
            "The table lists the reasons. The same command retries them and reuses the finished cells.",
        )
