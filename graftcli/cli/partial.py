"""`graftcli partial`: only some blocks of the teacher replaced by the student's."""

from pathlib import Path
from typing import Annotated

from graftcli.cli import options as o
from graftcli.cli import progress
from graftcli.cli.distill import Out, Overwrite, Recipe, Set, StepsScale, Strict, ValImages, choice, command, tell
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
Images = Annotated[
    Path | None,
    o.option("--images", metavar="DIR", rich_help_panel=o.IMAGES, help="As in distill. Without it: the run's."),
]


def partial(
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

    After a `distill`, `--blocks` alone is enough: networks, images and trained blocks are those of the newest run.

    Examples:
      graftcli partial --blocks 3
      graftcli partial --blocks 2-4 --run runs/resnet34-resnet18
      graftcli partial --blocks last --teacher resnet34 --student resnet18 --images ./10shot/
    """
    from graftcli.errors import UsageError
    from graftcli.running import Asked, How, Networks
    from graftcli.running import partial as run
    from graftcli.scoring import Look

    asked = None
    given = {"--teacher": teacher, "--student": student, "--images": images}
    if teacher is not None and student is not None and images is not None:
        cuts = choice(blocks_count, split_teacher, split_student)
        networks = Networks(
            teacher, student, teacher_checkpoint, student_checkpoint, num_classes, in_chans, ema, unsafe_load, cuts
        )
        how = How(recipe, tuple(set_ or ()), steps_scale, batch, seed, device, amp, compile_, cache_gb, jobs, strict)
        look = Look(img_size, mean, std, crop_pct, interpolation)
        asked = Asked(networks, str(images), str(val_images) if val_images is not None else None, look, how)
    elif any(value is not None for value in given.values()):
        missing = ", ".join(flag for flag, value in given.items() if value is None)
        raise UsageError(f"{missing} missing.", "Give --teacher, --student and --images together, or a run with --run.")
    with progress.listening(as_json=as_json, quiet=quiet) as listen:
        result = run(
            blocks, asked, run_folder=run_folder, out=out, overwrite=overwrite, command=command(), listen=listen
        )
    tell(result, as_json=as_json)
