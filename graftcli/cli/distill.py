"""`graftcli distill`: the whole student, grafted block by block into the teacher until nothing of it is left."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graftcli.cli import options as o
from graftcli.cli import progress, render, render_run
from graftcli.cli.asking import asked_by
from graftcli.cli.plan import BlocksCount, SplitStudent, SplitTeacher

if TYPE_CHECKING:
    from graftcli.runs.result import Result

RECIPE = "Recipe"
_IMAGES_HELP = "A folder, .zip or .tar of unlabelled images; labels and folder names are never read."

Images = Annotated[Path, o.option("--images", metavar="DIR", rich_help_panel=o.IMAGES, help=_IMAGES_HELP)]
ValImages = Annotated[
    Path | None,
    o.option(
        "--val-images",
        metavar="DIR",
        rich_help_panel=o.IMAGES,
        help="Measure agreement on these. Without it: on a tenth of the images, where there are 40 or more.",
    ),
]
Strict = Annotated[
    bool, o.option("--strict", metavar="", rich_help_panel=o.IMAGES, help="A broken image is an error, not left out.")
]
Recipe = Annotated[
    str, o.option("--recipe", metavar="NAME|FILE", rich_help_panel=RECIPE, help="See `graftcli recipes ls`.")
]
Set = Annotated[
    list[str] | None,
    o.option("--set", metavar="KEY=VALUE", rich_help_panel=RECIPE, help="Change the recipe: stages.graft.lr=1e-3."),
]
StepsScale = Annotated[
    float,
    o.option("--steps-scale", min=0.0001, metavar="X", rich_help_panel=RECIPE, help="0.1: a tenth of all steps."),
]
Out = Annotated[
    Path | None,
    o.option(
        "--out",
        metavar="DIR|FILE",
        rich_help_panel=o.OUTPUT,
        help="The run's folder, or one .safetensors or .onnx file. Without it: runs/TEACHER-STUDENT.",
    ),
]
Overwrite = Annotated[
    bool, o.option("--overwrite", metavar="", rich_help_panel=o.OUTPUT, help="Start anew in a folder with another run.")
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
    """Train the student on a few unlabelled images, block by block inside the teacher, and write it merged.

    Interrupt it at any time: the same command goes on.

    Examples:
      graftcli distill --teacher resnet34 --student resnet18 --images ./10shot/
      graftcli distill --teacher my_net.py:big --teacher-checkpoint big.pth --student my_net.py:small --images ./photos
      graftcli distill --teacher resnet50 --student mobilenetv3_large_100 --images ./photos --out student.onnx
      graftcli distill --teacher resnet50 --student 'teacher*0.5' --images ./photos
      graftcli distill --teacher resnet34 --student resnet18 --images ./10shot/ --recipe netgraft --steps-scale 0.1
    """
    from graftcli.runs.running import distill as run

    with progress.listening(as_json=as_json, quiet=quiet) as listen:
        result = run(asked_by(ctx.params), out=out, overwrite=overwrite, command=command(), listen=listen)
    tell(result, as_json=as_json)


def command() -> str:
    """What was typed, for the model card."""
    return shlex.join(["graftcli", *sys.argv[1:]])


def tell(result: "Result", *, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        render.document(asdict(result))
    else:
        render_run.result(result)
