"""`graftcli eval`: how often networks are right, and how often they answer as their teacher does."""

from pathlib import Path
from typing import Annotated

import typer

from graftcli.cli import options as o
from graftcli.cli import progress, render, render_run

Models = Annotated[
    list[str], typer.Argument(metavar="MODEL…", help="Runs, files that graftcli wrote, ONNX files, or model specs.")
]
Folder = Annotated[
    Path,
    o.option(
        "--images", metavar="DIR", rich_help_panel=o.IMAGES, help="Images; with class folders in it, labelled ones."
    ),
]
Teacher = Annotated[
    str | None,
    o.option(
        "--teacher",
        metavar="SPEC",
        rich_help_panel=o.NETWORKS,
        help="Also tell how far the models agree with it. Without it, the teacher of the run.",
    ),
]
Checkpoint = Annotated[
    str | None,
    o.option(
        "--checkpoint", metavar="FILE", rich_help_panel=o.NETWORKS, help="Weights for MODEL, where it is one spec."
    ),
]
Classes = Annotated[
    Path | None,
    o.option(
        "--classes",
        metavar="FILE",
        rich_help_panel=o.IMAGES,
        help="Which folder is which class: a name a line, or JSON.",
    ),
]


def evaluate(
    models: Models,
    images: Folder,
    teacher: Teacher = None,
    checkpoint: Checkpoint = None,
    teacher_checkpoint: o.TeacherCheckpoint = None,
    classes: Classes = None,
    img_size: o.ImageSize = None,
    mean: o.Mean = None,
    std: o.Std = None,
    crop_pct: o.CropPct = None,
    interpolation: o.Interpolation = None,
    num_classes: o.NumClasses = None,
    in_chans: o.InChans = None,
    batch: o.Batch = 128,
    jobs: o.Jobs = None,
    device: o.Device = "auto",
    ema: o.Ema = None,
    unsafe_load: o.UnsafeLoad = False,
    trust_code: o.TrustCode = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Score networks on a folder: top-1 and top-5 where it has class folders, agreement with a teacher everywhere.

    Folder names become classes by a rule that is printed: `--classes`, a number in front (3_cat), or an ImageNet id.

    Examples:
      graftcli eval runs/resnet34-resnet18 --images ./val
      graftcli eval runs/a runs/b --images ./10shot --teacher resnet34
      graftcli eval torchvision:resnet18 --checkpoint best.pth --images ./val --classes names.txt
      graftcli eval prune:l1=0.3 --teacher resnet34 --images ./val     (as it is before anything is trained)
    """
    from graftcli.api.evaluating import evaluate as score
    from graftcli.api.evaluating import evaluation_json
    from graftcli.runs.scoring import PreprocessOptions

    with progress.listening(as_json=as_json, quiet=quiet) as listen:
        scored = score(
            models,
            images,
            teacher=teacher,
            checkpoint=checkpoint,
            teacher_checkpoint=teacher_checkpoint,
            classes=classes,
            look=PreprocessOptions(img_size, mean, std, crop_pct, interpolation),
            num_classes=num_classes,
            in_chans=in_chans,
            batch=batch,
            jobs=jobs,
            device=device,
            listen=listen,
            ema=ema,
            unsafe=unsafe_load,
            trust_code=trust_code,
        )
    if as_json:
        render.document(evaluation_json(scored))
    else:
        render_run.evaluation(scored)
