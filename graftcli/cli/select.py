"""`graftcli images select`: select the most useful images of a large collection."""

from pathlib import Path
from typing import Annotated

from graftcli.cli import options as o
from graftcli.cli import progress, render, render_images
from graftcli.cli.images import Classes, Folder, Teacher
from graftcli.formatting import one_of
from graftcli.images.selection import NAMES

Max = Annotated[int, o.option("--max", min=2, metavar="N", rich_help_panel=o.IMAGES, help="How many images to select.")]
By = Annotated[
    str,
    o.option(
        "--by",
        metavar="|".join(NAMES),
        rich_help_panel=o.IMAGES,
        help=f"Method: {one_of(NAMES)}; by the classes that the teacher predicts, by its features, or by neither.",
    ),
]
Out = Annotated[
    Path | None,
    o.option(
        "--out",
        metavar="DIR|FILE",
        rich_help_panel=o.OUTPUT,
        help="Folder for copies of the images, or a .list file that lists them and can be given as --images.",
    ),
]
Overwrite = Annotated[
    bool,
    o.option("--overwrite", metavar="", rich_help_panel=o.OUTPUT, help="Replace the list, or add to the folder."),
]


def select(
    folder: Folder,
    max_: Max,
    by: By = "balanced",
    teacher: Teacher = None,
    teacher_checkpoint: o.TeacherCheckpoint = None,
    out: Out = None,
    overwrite: Overwrite = False,
    seed: o.Seed = 0,
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
    """Select the most useful images for a distillation from a large collection, and report the coverage of classes.

    Works for any number of images: each is read once, and a bounded number of candidates is kept in memory. Labels and
    folder names are never read; duplicates are left out. `distill --max-images N` selects in the same way.

    Examples:
      graftcli images select ./photos --teacher resnet34 --max 1000 --out chosen.list
      graftcli images select 'shards-{0000..0099}.tar' --teacher resnet34 --max 5000 --by diverse --out ./chosen
    """
    from graftcli.api.selecting import select_images, selection_json

    with progress.listening(as_json=as_json, quiet=quiet) as listen:
        selection = select_images(
            folder,
            max_,
            by=by,
            teacher=teacher,
            teacher_checkpoint=teacher_checkpoint,
            out=out,
            overwrite=overwrite,
            seed=seed,
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
        render.document(selection_json(selection))
    else:
        render_images.selection(selection)
