"""`graftcli distill`: train a student by grafting its blocks into the teacher, one after another."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graftcli.cli import options as o
from graftcli.cli import progress, render, render_run
from graftcli.cli.arguments import keywords
from graftcli.cli.plan import BlocksCount, SplitStudent, SplitTeacher
from graftcli.formats.options import single_suffixes
from graftcli.formatting import one_of
from graftcli.images.selection import NAMES

if TYPE_CHECKING:
    from graftcli.runs.result import Result

RECIPE = "Recipe"
_IMAGES_HELP = f"{o.SOURCE} of unlabelled images. Labels and folder names are never read."

Images = Annotated[Path, o.option("--images", metavar="DIR", rich_help_panel=o.IMAGES, help=_IMAGES_HELP)]
ValImages = Annotated[
    Path | None,
    o.option(
        "--val-images",
        metavar="DIR",
        rich_help_panel=o.IMAGES,
        help="Validation images for agreement. Default: a tenth of the images, if there are 40 or more.",
    ),
]
ExtraImages = Annotated[
    Path | None,
    o.option(
        "--extra-images",
        metavar="DIR",
        rich_help_panel=o.IMAGES,
        help="Unlabelled images of any other kind; half of the training views show them (views.extra_share).",
    ),
]
MaxImages = Annotated[
    int | None,
    o.option(
        "--max-images",
        min=2,
        metavar="N",
        rich_help_panel=o.IMAGES,
        help="Train on this many images, which one pass of the teacher selects. Default: on all.",
    ),
]
Select = Annotated[
    str,
    o.option(
        "--select",
        metavar="|".join(NAMES),
        rich_help_panel=o.IMAGES,
        help=f"How --max-images are selected: {one_of(NAMES)}; see `graftcli images select`.",
    ),
]
Strict = Annotated[
    bool,
    o.option("--strict", metavar="", rich_help_panel=o.IMAGES, help="Fail on corrupt images instead of skipping them."),
]
Recipe = Annotated[
    str,
    o.option(
        "--recipe", metavar="NAME|FILE", rich_help_panel=RECIPE, help="Recipe or YAML file; see `graftcli recipes ls`."
    ),
]
Set = Annotated[
    list[str] | None,
    o.option(
        "--set",
        metavar="KEY=VALUE",
        rich_help_panel=RECIPE,
        help="Override a value of the recipe, such as stages.graft.lr=1e-3.",
    ),
]
StepsScale = Annotated[
    float,
    o.option(
        "--steps-scale",
        min=0.0001,
        metavar="X",
        rich_help_panel=RECIPE,
        help="Factor for the number of training steps.",
    ),
]
Out = Annotated[
    Path | None,
    o.option(
        "--out",
        metavar="DIR|FILE",
        rich_help_panel=o.OUTPUT,
        help=f"Folder of the run, or a {one_of(single_suffixes())} file. Default: runs/TEACHER-STUDENT.",
    ),
]
Overwrite = Annotated[
    bool,
    o.option("--overwrite", metavar="", rich_help_panel=o.OUTPUT, help="Replace another run in the output folder."),
]


def distill(
    ctx: typer.Context,
    teacher: o.Teacher,
    student: o.Student,
    images: Images,
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
    """Train the student on a few unlabelled images, block by block inside the teacher, and write the merged network.

    Interrupt at any time; the same command resumes.

    Examples:
      graftcli distill --teacher resnet34 --student resnet18 --images ./10shot/
      graftcli distill --teacher my_net.py:big --teacher-checkpoint big.pth --student my_net.py:small --images ./photos
      graftcli distill --teacher resnet50 --student mobilenetv3_large_100 --images ./photos --out student.onnx
      graftcli distill --teacher resnet50 --student 'teacher*0.5' --images ./photos
      graftcli distill --teacher resnet34 --student resnet18 --images ./10shot/ --recipe netgraft --steps-scale 0.1
    """
    from graftcli.api.distilling import distill as run

    with progress.listening(as_json=as_json, quiet=quiet) as listen:
        result = run(**keywords(ctx.params), command=command(), listen=listen)
    print_result(result, out, as_json=as_json)


def command() -> str:
    """Return the command line, for the model card."""
    return shlex.join(["graftcli", *sys.argv[1:]])


def print_result(result: "Result", out: Path | None, *, as_json: bool) -> None:
    """Print the result of a run; the last line names the single file, if `out` does."""
    from dataclasses import asdict

    from graftcli.runs.destination import single_file

    if as_json:
        render.document(asdict(result))
    else:
        render_run.result(result)
        if (single := single_file(out)) is not None:
            render.line(f"written: {single}")
