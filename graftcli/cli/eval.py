"""`graftcli eval`: accuracy of networks and agreement with their teacher."""

from pathlib import Path
from typing import Annotated

import typer

from graftcli.cli import options as o
from graftcli.cli import progress, render, render_scores

Models = Annotated[
    list[str], typer.Argument(metavar="MODEL…", help="Runs, files written by graftcli, ONNX files, or model specs.")
]
Folder = Annotated[
    Path,
    o.option(
        "--images", metavar="DIR", rich_help_panel=o.IMAGES, help="Folder of images, labelled if it has class folders."
    ),
]
Teacher = Annotated[
    str | None,
    o.option(
        "--teacher",
        metavar="SPEC",
        rich_help_panel=o.NETWORKS,
        help="Also measure agreement with this network. Default: the teacher of the run.",
    ),
]
Checkpoint = Annotated[
    str | None,
    o.option(
        "--checkpoint", metavar="FILE", rich_help_panel=o.NETWORKS, help="Weights for MODEL, if it is a single spec."
    ),
]
Classes = Annotated[
    Path | None,
    o.option(
        "--classes",
        metavar="FILE",
        rich_help_panel=o.IMAGES,
        help="Class names: one per line, or JSON. Maps folders to classes.",
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
    """Score networks on a folder: top-1 and top-5 accuracy if it has class folders, and agreement with a teacher.

    The class of a folder comes from `--classes`, a leading number (3_cat) or an ImageNet id; the rule is printed.

    Examples:
      graftcli eval runs/resnet34-resnet18 --images ./val
      graftcli eval runs/a runs/b --images ./10shot --teacher resnet34
      graftcli eval torchvision:resnet18 --checkpoint best.pth --images ./val --classes names.txt
      graftcli eval prune:l1=0.3 --teacher resnet34 --images ./val     (before any training)
    """
    from graftcli.api.evaluating import evaluate as score
    from graftcli.api.evaluating import evaluation_json

    with progress.listening(as_json=as_json, quiet=quiet) as listen:
        result = score(
            models,
            images,
            teacher=teacher,
            checkpoint=checkpoint,
            teacher_checkpoint=teacher_checkpoint,
            classes=classes,
            img_size=img_size,
            mean=mean,
            std=std,
            crop_pct=crop_pct,
            interpolation=interpolation,
            num_classes=num_classes,
            in_chans=in_chans,
            batch=batch,
            jobs=jobs,
            device=device,
            listen=listen,
            ema=ema,
            unsafe_load=unsafe_load,
            trust_code=trust_code,
        )
    if as_json:
        render.document(evaluation_json(result))
    else:
        render_scores.evaluation(result)
