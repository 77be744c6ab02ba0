"""`graftcli images`: what is in a folder of images, and what a teacher would make of it."""

from pathlib import Path
from typing import Annotated

import typer

from graftcli.cli import options as o
from graftcli.cli import progress, render, render_images

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A folder, .zip or .tar of images.")]
Teacher = Annotated[
    str | None,
    o.option(
        "--teacher",
        metavar="SPEC",
        rich_help_panel=o.NETWORKS,
        help="Also tell what this network takes the images for. Named as in distill.",
    ),
]
Classes = Annotated[
    Path | None,
    o.option("--classes", metavar="FILE", rich_help_panel=o.IMAGES, help="What the teacher's classes are called."),
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
    """Look images over before a distillation: broken and doubled ones, sizes, and what the teacher sees in them.

    Any number of images: each is read once and not kept. Folder names are never read.

    Examples:
      graftcli images ./10shot --teacher resnet34
      graftcli images ./photos.zip
      graftcli images ./photos --teacher my_net.py:build --teacher-checkpoint best.pth --classes names.txt --json
    """
    from graftcli.runs.image_check import check, check_json
    from graftcli.runs.scoring import PreprocessOptions

    with progress.listening(as_json=as_json, quiet=quiet) as listen:
        found = check(
            folder,
            teacher=teacher,
            teacher_checkpoint=teacher_checkpoint,
            classes=classes,
            look=PreprocessOptions(img_size, mean, std, crop_pct, interpolation),
            num_classes=num_classes,
            in_chans=in_chans,
            batch=batch,
            jobs=jobs,
            device=device,
            ema=ema,
            unsafe=unsafe_load,
            trust_code=trust_code,
            listen=listen,
        )
    if as_json:
        render.document(check_json(found))
    else:
        render_images.check(found)
