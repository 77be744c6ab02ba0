"""`graftcli export`: write a network as a file for other tools and compare it with PyTorch on real images."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from graftcli.cli import options as o
from graftcli.cli import progress, render, render_bench, render_export
from graftcli.cli.eval import Classes
from graftcli.formats.options import DEFAULT_FORMAT, FORMATS, MIN_AGREEMENT, OLDEST_OPSET, Pixels
from graftcli.formatting import one_of

if TYPE_CHECKING:
    from graftcli.api.benching import Bench
    from graftcli.formats.options import Exported

_AGREEMENTS = ", ".join(f"{precision} {share:g}" for precision, share in MIN_AGREEMENT.items())

_FORMATS = one_of(name if name == known.about.lower() else f"{name} ({known.about})" for name, known in FORMATS.items())
_BENCHMARKED = one_of(name for name, known in FORMATS.items() if known.is_benchmarked)

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A run, a file written by graftcli, or a model spec.")]
Format = Annotated[str, o.option("--format", "-f", metavar="NAME", rich_help_panel=o.OUTPUT, help=f"{_FORMATS}.")]
Precision = Annotated[
    str,
    o.option(
        "--precision",
        metavar="NAME",
        rich_help_panel=o.OUTPUT,
        help=f"{one_of(MIN_AGREEMENT)}, for ONNX. Layers that lose accuracy in int8 stay in float.",
    ),
]
Static = Annotated[bool, o.option("--static", metavar="", rich_help_panel=o.OUTPUT, help="Fixed batch size of 1.")]
DynamicSize = Annotated[
    bool,
    o.option(
        "--dynamic-size", metavar="", rich_help_panel=o.OUTPUT, help="Variable image size, if the network supports it."
    ),
]
Opset = Annotated[
    int | None,
    o.option(
        "--opset",
        metavar="N",
        rich_help_panel=o.OUTPUT,
        help=f"ONNX opset, {OLDEST_OPSET} or later. Default: {OLDEST_OPSET}.",
    ),
]
BakePreprocess = Annotated[
    str | None,
    o.option(
        "--bake-preprocess",
        metavar="|".join(get_args(Pixels)),
        rich_help_panel=o.OUTPUT,
        help="Include normalisation: the file takes uint8 pixels in this layout.",
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
        help=f"Required share of images with the same prediction as PyTorch. Default: {_AGREEMENTS}.",
    ),
]
Images = Annotated[
    Path | None,
    o.option(
        "--images",
        metavar="DIR",
        rich_help_panel=o.IMAGES,
        help="Images to check the file on. Default: the images of the run.",
    ),
]
Calib = Annotated[
    Path | None,
    o.option(
        "--calib",
        metavar="DIR",
        rich_help_panel=o.IMAGES,
        help="Calibration images for int8. Default: same as --images.",
    ),
]
Checkpoint = Annotated[
    str | None,
    o.option("--checkpoint", metavar="FILE", rich_help_panel=o.NETWORKS, help="Weights, if MODEL is a spec."),
]
Out = Annotated[
    Path | None,
    o.option(
        "--out",
        metavar="FILE",
        rich_help_panel=o.OUTPUT,
        help="Output file. Default: in the folder of the run, or the working directory.",
    ),
]
Overwrite = Annotated[
    bool, o.option("--overwrite", metavar="", rich_help_panel=o.OUTPUT, help="Replace an existing file.")
]
Benchmark = Annotated[
    bool,
    o.option(
        "--bench",
        metavar="",
        rich_help_panel=o.OUTPUT,
        help=f"Then benchmark the file ({_BENCHMARKED}), which takes a minute or two; a run also gets bench.json.",
    ),
]


def export(
    model: Model,
    format_: Format = DEFAULT_FORMAT,
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
    bench: Benchmark = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Export a network or a hybrid to a file for other tools.

    Before the file is saved, its outputs on the images of the run (or --images) are compared with PyTorch.

    Examples:
      graftcli export runs/resnet34-resnet18
      graftcli export runs/resnet34-resnet18 --precision int8
      graftcli export runs/resnet34-resnet18 --bake-preprocess nhwc --opset 20 --out phone.onnx
      graftcli export resnet18 --checkpoint best.pth --images ./photos --dynamic-size
      graftcli export student.safetensors --format pt2
    """
    from graftcli.api.benching import bench_export
    from graftcli.api.exporting import export as write

    shared: dict[str, Any] = {
        **{"images": images, "classes": classes, "checkpoint": checkpoint, "jobs": jobs},
        **{"img_size": img_size, "mean": mean, "std": std, "crop_pct": crop_pct, "interpolation": interpolation},
        **{"num_classes": num_classes, "in_chans": in_chans, "ema": ema},
        **{"unsafe_load": unsafe_load, "trust_code": trust_code},
    }
    with progress.listening(as_json=as_json, quiet=quiet) as listen:
        exported = write(
            model,
            format=format_,
            precision=precision,
            static=static,
            dynamic_size=dynamic_size,
            opset=opset,
            bake_preprocess=bake_preprocess,
            min_agreement=min_agreement,
            calib=calib,
            out=out,
            overwrite=overwrite,
            listen=listen,
            **shared,
        )
        is_benchmarked = bench and FORMATS[exported.format].is_benchmarked
        measured = bench_export(model, exported.path, listen=listen, **shared) if is_benchmarked else None
    _print_export(exported, measured, as_json=as_json)


def _print_export(exported: "Exported", measured: "Bench | None", *, as_json: bool) -> None:
    """Print the benchmark, if there is one, and the exported file."""
    from graftcli.api.benching import bench_json

    if as_json:
        benchmark = {"ladder": bench_json(measured)} if measured is not None else {}
        render.document(asdict(exported) | benchmark)
        return
    if measured is not None:
        render_bench.bench(measured)
        render.line()
    render_export.exported(exported)
