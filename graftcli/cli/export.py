"""`graftcli export`: a student as one file for other tools, checked on real images before it gets its name."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graftcli.cli import options as o
from graftcli.cli import progress, render, render_bench, render_export
from graftcli.cli.eval import Classes

if TYPE_CHECKING:
    from graftcli.api.benching import Bench
    from graftcli.formats.options import Exported

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A run, a file that graftcli wrote, or a model spec.")]
Format = Annotated[
    str, o.option("--format", "-f", metavar="NAME", rich_help_panel=o.OUTPUT, help="onnx, pt2 or safetensors.")
]
Precision = Annotated[
    str,
    o.option(
        "--precision",
        metavar="NAME",
        rich_help_panel=o.OUTPUT,
        help="fp32, fp16, or int8 with ranges from images; layers that int8 harms stay in float. For onnx.",
    ),
]
Static = Annotated[
    bool, o.option("--static", metavar="", rich_help_panel=o.OUTPUT, help="One image at a time, and no other batch.")
]
DynamicSize = Annotated[
    bool,
    o.option("--dynamic-size", metavar="", rich_help_panel=o.OUTPUT, help="Images of any size, where the network can."),
]
Opset = Annotated[
    int | None,
    o.option("--opset", metavar="N", rich_help_panel=o.OUTPUT, help="ONNX's, 18 and up. Without it: 18."),
]
BakePreprocess = Annotated[
    str | None,
    o.option(
        "--bake-preprocess",
        metavar="nhwc|nchw",
        rich_help_panel=o.OUTPUT,
        help="The file takes uint8 pixels in this order and normalises them itself.",
    ),
]
MinAgreement = Annotated[
    float | None,
    o.option(
        "--min-agreement",
        min=0.0,
        max=1.0,
        metavar="SHARE",
        rich_help_panel=o.OUTPUT,
        help="Images on which the file must answer as PyTorch does. Without it: all, fp16 0.99, int8 0.95.",
    ),
]
Images = Annotated[
    Path | None,
    o.option("--images", metavar="DIR", rich_help_panel=o.IMAGES, help="Check on these. Without it: the run's."),
]
Calib = Annotated[
    Path | None,
    o.option(
        "--calib",
        metavar="DIR",
        rich_help_panel=o.IMAGES,
        help="Take int8's ranges from these. Without it: as --images.",
    ),
]
Checkpoint = Annotated[
    str | None,
    o.option("--checkpoint", metavar="FILE", rich_help_panel=o.NETWORKS, help="Weights, where MODEL is a spec."),
]
Out = Annotated[
    Path | None,
    o.option("--out", metavar="FILE", rich_help_panel=o.OUTPUT, help="Without it: in the run's folder, else here."),
]
Overwrite = Annotated[
    bool, o.option("--overwrite", metavar="", rich_help_panel=o.OUTPUT, help="Replace a file that is there.")
]


def export(
    model: Model,
    format_: Format = "onnx",
    precision: Precision = "fp32",
    static: Static = False,
    dynamic_size: DynamicSize = False,
    opset: Opset = None,
    bake_preprocess: BakePreprocess = None,
    min_agreement: MinAgreement = None,
    images: Images = None,
    calib: Calib = None,
    classes: Classes = None,
    checkpoint: Checkpoint = None,
    num_classes: o.NumClasses = None,
    in_chans: o.InChans = None,
    img_size: o.ImageSize = None,
    mean: o.Mean = None,
    std: o.Std = None,
    crop_pct: o.CropPct = None,
    interpolation: o.Interpolation = None,
    jobs: o.Jobs = None,
    ema: o.Ema = None,
    unsafe_load: o.UnsafeLoad = False,
    trust_code: o.TrustCode = False,
    out: Out = None,
    overwrite: Overwrite = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Write a network as ONNX, as a program of torch.export, or as weights; hybrids too.

    Each file is run on real images and compared with PyTorch before it gets its name: a run's own, or --images.

    Examples:
      graftcli export runs/resnet34-resnet18
      graftcli export runs/resnet34-resnet18 --precision int8
      graftcli export runs/resnet34-resnet18 --bake-preprocess nhwc --opset 20 --out phone.onnx
      graftcli export resnet18 --checkpoint best.pth --images ./photos --dynamic-size
      graftcli export student.safetensors --format pt2
    """
    from graftcli.api.benching import after_export
    from graftcli.api.exporting import CheckImages
    from graftcli.api.exporting import export as write
    from graftcli.formats.options import ExportOptions
    from graftcli.runs.scoring import PreprocessOptions

    form = ExportOptions(
        format_,  # type: ignore[arg-type]  # Form refuses what it does not know
        precision,  # type: ignore[arg-type]
        static,
        dynamic_size,
        opset,
        bake_preprocess,  # type: ignore[arg-type]
        min_agreement,
    )
    look = PreprocessOptions(img_size, mean, std, crop_pct, interpolation)
    both: dict[str, Any] = {"checkpoint": checkpoint, "classes": classes, "num_classes": num_classes}
    both |= {"in_chans": in_chans, "ema": ema, "unsafe": unsafe_load, "trust_code": trust_code}
    with progress.listening(as_json=as_json, quiet=quiet) as listen:
        seen = CheckImages(images, calib, look, jobs)
        exported = write(model, form, out=out, seen=seen, overwrite=overwrite, listen=listen, **both)
        onnx = exported.format == "onnx"
        shown: dict[str, Any] = {"images": images, "look": look, "jobs": jobs}
        measured = after_export(model, exported.path, listen=listen, **shown, **both) if onnx else None
    _tell(exported, measured, as_json=as_json)


def _tell(exported: "Exported", measured: "Bench | None", *, as_json: bool) -> None:
    """The ladder, where there is one, and what was written."""
    from graftcli.api.benching import bench_json

    if as_json:
        ladder = {"ladder": bench_json(measured)} if measured is not None else {}
        render.document(asdict(exported) | ladder)
        return
    if measured is not None:
        render_bench.bench(measured)
        render.line()
    render_export.exported(exported)
