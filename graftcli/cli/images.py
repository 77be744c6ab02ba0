"""`graftcli images`: check a folder of images before distillation."""

from pathlib import Path
from typing import Annotated

import typer

from graftcli.cli import options as o
from graftcli.cli import progress, render, render_images

Folder = Annotated[Path, typer.Argument(metavar="DIR", help=f"{o.SOURCE} of images.")]
Teacher = Annotated[
    str | None,
    o.option(
        "--teacher",
        metavar="SPEC",
        rich_help_panel=o.NETWORKS,
        help="Also report the classes that this network predicts. Spec as in distill.",
    ),
]
Classes = Annotated[
    Path | None,
    o.option("--classes", metavar="FILE", rich_help_panel=o.IMAGES, help="Class names of the teacher."),
]


def images(
    folder: Folder,
    teacher: Teacher = None,
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
    """Check images before a distillation: corrupt files, duplicates, sizes, and the classes that the teacher predicts.

    Works for any number of images: each is read once and not kept in memory. Folder names are never read.

    Examples:
      graftcli images ./10shot --teacher resnet34
      graftcli images ./photos.zip
      graftcli images ./photos --teacher my_net.py:build --teacher-checkpoint best.pth --classes names.txt --json
    """
    from graftcli.runs.image_check import check_json, inspect_images

    with progress.listening(as_json=as_json, quiet=quiet) as listen:
        report = inspect_images(
            folder,
            teacher=teacher,
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
            ema=ema,
            unsafe_load=unsafe_load,
            trust_code=trust_code,
            listen=listen,
        )
    if as_json:
        render.document(check_json(report))
    else:
        render_images.check(report)
