"""`graftcli partial`: replace some blocks of the teacher by student blocks."""

from pathlib import Path
from typing import Annotated

import typer

from graftcli.cli import options as o
from graftcli.cli import progress
from graftcli.cli.arguments import explicit
from graftcli.cli.distill import (
    RECIPE,
    ExtraImages,
    MaxImages,
    Out,
    Overwrite,
    Select,
    Set,
    StepsScale,
    Strict,
    ValImages,
    command,
    print_result,
)
from graftcli.cli.plan import BlocksCount, SplitStudent, SplitTeacher

Blocks = Annotated[
    str, o.option("--blocks", metavar="3|1,3|2-4|last", help="Blocks to replace, numbered as in `graftcli plan`.")
]
Run = Annotated[
    Path | None,
    o.option("--run", metavar="DIR", help="Run to take networks, images and trained blocks from. Default: the newest."),
]
Teacher = Annotated[
    str | None,
    o.option("--teacher", metavar="SPEC", rich_help_panel=o.NETWORKS, help="As in distill. Default: from the run."),
]
Student = Annotated[
    str | None,
    o.option("--student", metavar="SPEC", rich_help_panel=o.NETWORKS, help="As in distill. Default: from the run."),
]
Recipe = Annotated[
    str,
    o.option(
        "--recipe",
        metavar="NAME|FILE",
        rich_help_panel=RECIPE,
        show_default=False,
        help="As in distill. Default: from the run, or graft.",
    ),
]
Images = Annotated[
    Path | None,
    o.option("--images", metavar="DIR", rich_help_panel=o.IMAGES, help="As in distill. Default: from the run."),
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
    extra_images: ExtraImages = None,
    max_images: MaxImages = None,
    select: Select = "balanced",
    strict: Strict = False,
    recipe: Recipe = "graft",
    set_: Set = None,
    steps_scale: StepsScale = 1.0,
    seed: o.Seed = 0,
    device: o.Device = "auto",
    amp: o.Amp = None,
    compile_: o.Compile = False,
    cache_gb: o.CacheGb = None,
    device_cache_gb: o.DeviceCacheGb = None,
    images_gb: o.ImagesGb = None,
    batch: o.StageBatch = None,
    jobs: o.Jobs = None,
    out: Out = None,
    overwrite: Overwrite = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Replace only some blocks of the teacher, and write the hybrid.

    After `distill`, `--blocks` is enough: networks, images, recipe, seed and trained blocks come from the newest run,
    and flags override them. With --teacher, --student and --images, no earlier run is used. The replaced blocks are
    then fine-tuned inside the teacher. Blocks are retrained if settings, images or views differ from that run.

    Examples:
      graftcli partial --blocks 3
      graftcli partial --blocks 2-4 --run runs/resnet34-resnet18
      graftcli partial --blocks last --teacher resnet34 --student resnet18 --images ./10shot/
    """
    from graftcli.api.distilling import partial as run

    with progress.listening(as_json=as_json, quiet=quiet) as listen:
        result = run(**explicit(ctx), command=command(), listen=listen)
    print_result(result, out, as_json=as_json)
