"""`graftcli partial`: only some blocks of the teacher replaced by the student's."""

from pathlib import Path
from typing import Annotated

import typer

from graftcli.cli import options as o
from graftcli.cli import progress
from graftcli.cli.asking import asked_by, given
from graftcli.cli.distill import RECIPE, Out, Overwrite, Set, StepsScale, Strict, ValImages, command, tell
from graftcli.cli.plan import BlocksCount, SplitStudent, SplitTeacher

Blocks = Annotated[
    str, o.option("--blocks", metavar="3|1,3|2-4|last", help="The blocks to replace, numbered as `graftcli plan` does.")
]
Run = Annotated[
    Path | None,
    o.option(
        "--run", metavar="DIR", help="Take networks, images and trained blocks from this run. Without it: the newest."
    ),
]
Teacher = Annotated[
    str | None,
    o.option("--teacher", metavar="SPEC", rich_help_panel=o.NETWORKS, help="As in distill. Without it: the run's."),
]
Student = Annotated[
    str | None,
    o.option("--student", metavar="SPEC", rich_help_panel=o.NETWORKS, help="As in distill. Without it: the run's."),
]
Recipe = Annotated[
    str,
    o.option(
        "--recipe",
        metavar="NAME|FILE",
        rich_help_panel=RECIPE,
        show_default=False,
        help="As in distill. Without it: the run's, else graft.",
    ),
]
Images = Annotated[
    Path | None,
    o.option("--images", metavar="DIR", rich_help_panel=o.IMAGES, help="As in distill. Without it: the run's."),
]


def partial(
    ctx: typer.Context,
    blocks: Blocks,
    run_folder: Run = None,
    teacher: Teacher = None,
    student: Student = None,
    images: Images = None,
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
    recipe: Recipe = "graft",
    set_: Set = None,
    steps_scale: StepsScale = 1.0,
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
    """Replace only some blocks of the teacher, and write the hybrid.

    After a `distill`, `--blocks` alone is enough: networks, images, recipe, seed and trained blocks are those of the
    newest run. What else is said changes that; where all of --teacher, --student and --images are, no other run is
    looked at. What is replaced is then finished inside the teacher. Blocks that are to be trained in another way than
    the earlier run's, or on other images or views, are trained anew.

    Examples:
      graftcli partial --blocks 3
      graftcli partial --blocks 2-4 --run runs/resnet34-resnet18
      graftcli partial --blocks last --teacher resnet34 --student resnet18 --images ./10shot/
    """
    from graftcli.runs.running import partial as run

    with progress.listening(as_json=as_json, quiet=quiet) as listen:
        result = run(
            blocks,
            asked_by(ctx.params),
            given=given(ctx),
            run_folder=run_folder,
            out=out,
            overwrite=overwrite,
            command=command(),
            listen=listen,
        )
    tell(result, as_json=as_json)
