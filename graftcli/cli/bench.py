"""`graftcli bench`: size, latency and agreement of teacher, student and exported files on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from graftcli.cli import options as o
from graftcli.cli import progress, render, render_bench
from graftcli.cli.eval import Classes

Models = Annotated[
    list[str],
    typer.Argument(metavar="RUN|SPEC|FILE.onnx…", help="Runs, model specs and ONNX files, in any combination."),
]
Teacher = Annotated[
    str | None,
    o.option(
        "--teacher",
        metavar="SPEC",
        rich_help_panel=o.NETWORKS,
        help="Reference of all comparisons. Default: the teacher of the run, or the first model.",
    ),
]
Checkpoint = Annotated[
    str | None,
    o.option(
        "--checkpoint",
        metavar="FILE",
        rich_help_panel=o.NETWORKS,
        help="Weights for the specs; `none` for random weights, which are as fast.",
    ),
]
Folder = Annotated[
    Path | None,
    o.option(
        "--images",
        metavar="DIR",
        rich_help_panel=o.IMAGES,
        help="Images to measure agreement on, and top-1 if they are in class folders. Default: the images of the run.",
    ),
]
Threads = Annotated[
    int | None,
    o.option("--threads", min=1, metavar="N", rich_help_panel=o.RUNNING, help="CPU threads. Default: all cores."),
]
Seconds = Annotated[
    float,
    o.option(
        "--seconds",
        min=0.0,
        metavar="S",
        rich_help_panel=o.RUNNING,
        help="Measuring time per model, at batch size 1 and at -b.",
    ),
]


def bench(
    models: Models,
    teacher: Teacher = None,
    checkpoint: Checkpoint = None,
    teacher_checkpoint: o.TeacherCheckpoint = None,
    images: Folder = None,
    classes: Classes = None,
    img_size: o.ImageSize = None,
    mean: o.Mean = None,
    std: o.Std = None,
    crop_pct: o.CropPct = None,
    interpolation: o.Interpolation = None,
    num_classes: o.NumClasses = None,
    in_chans: o.InChans = None,
    batch: o.Batch = 32,
    threads: Threads = None,
    seconds: Seconds = 3.0,
    jobs: o.Jobs = None,
    ema: o.Ema = None,
    unsafe_load: o.UnsafeLoad = False,
    trust_code: o.TrustCode = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Measure size, MACs, latency and agreement of a teacher, its student and their ONNX files on the CPU.

    A run contributes its teacher, its student, the ONNX files in its folder and its images; the result is also
    written there, as bench.json. Models are warmed up and measured in turns.

    Examples:
      graftcli bench runs/resnet34-resnet18
      graftcli bench runs/resnet34-resnet18 student-int8.onnx --images ./val --threads 1
      graftcli bench resnet34 resnet18 mobilenetv3_large_100 --checkpoint none -b 16 --json
    """
    from graftcli.api.benching import bench as measure
    from graftcli.api.benching import bench_json

    with progress.listening(as_json=as_json, quiet=quiet) as listen:
        result = measure(
            models,
            teacher=teacher,
            checkpoint=checkpoint,
            teacher_checkpoint=teacher_checkpoint,
            images=images,
            classes=classes,
            img_size=img_size,
            mean=mean,
            std=std,
            crop_pct=crop_pct,
            interpolation=interpolation,
            batch=batch,
            threads=threads,
            seconds=seconds,
            jobs=jobs,
            listen=listen,
            num_classes=num_classes,
            in_chans=in_chans,
            ema=ema,
            unsafe_load=unsafe_load,
            trust_code=trust_code,
        )
    if as_json:
        render.document(bench_json(result))
    else:
        render_bench.bench(result)
