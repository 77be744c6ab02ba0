"""Options shared by several commands. Precedence: default < recipe < GRAFTCLI_* variable < flag."""

from typing import Annotated, Any

import typer

from graftcli.cli.limits import bounded
from graftcli.cli.parsing import Channels, ImgSize, numbers, parse_img_size
from graftcli.formatting import one_of
from graftcli.images.sources import NAMES
from graftcli.students.spec import EXAMPLES

NETWORKS = "Networks"
RUNNING = "Running"
OUTPUT = "Output"


def option(*flags: str, **settings: Any) -> Any:
    """Create a Typer option with the variable of its first flag: `--img-size` reads GRAFTCLI_IMG_SIZE."""
    name = flags[0].split("/")[0].removeprefix("--")
    variable = f"GRAFTCLI_{name.replace('-', '_').upper()}"
    limited = bounded(flags[0].split("/")[0], settings)
    return typer.Option(*flags, envvar=variable, show_envvar=False, **limited)  # the main help explains the variables


_SPEC = "resnet34, timm:…, torchvision:name@WEIGHTS, hf-hub:org/repo, local-dir:path, file.py:factory(depth=20), or a file or folder written by graftcli"  # noqa: E501

_DERIVED = f"derived from the teacher: {one_of(EXAMPLES)}"

# the values of flags and arguments for images
SOURCE = f"{NAMES[0].capitalize()}, {one_of(NAMES[1:])} (also several: 'shards-{{0000..0099}}.tar'; also a URL)"

Teacher = Annotated[
    str,
    option(
        "--teacher",
        metavar="SPEC",
        rich_help_panel=NETWORKS,
        help=f"The trained network: {_SPEC}. In your own code, set its attribute input_size = (3, 32, 32).",
    ),
]
Student = Annotated[
    str,
    option(
        "--student",
        metavar="SPEC",
        rich_help_panel=NETWORKS,
        help=f"The smaller network: a spec as for --teacher, or {_DERIVED}.",
    ),
]
TeacherCheckpoint = Annotated[
    str | None,
    option(
        "--teacher-checkpoint",
        metavar="FILE",
        rich_help_panel=NETWORKS,
        help="Weights of the teacher; `none` for random weights. Default: the pretrained weights of the spec.",
    ),
]
StudentCheckpoint = Annotated[
    str | None,
    option("--student-checkpoint", metavar="FILE", rich_help_panel=NETWORKS, help="Initial weights of the student."),
]
NumClasses = Annotated[
    int | None,
    option(
        "--num-classes",
        min=1,
        metavar="N",
        rich_help_panel=NETWORKS,
        help="Number of classes. Default: from the teacher's checkpoint.",
    ),
]
InChans = Annotated[
    int | None,
    option(
        "--in-chans",
        min=1,
        metavar="N",
        rich_help_panel=NETWORKS,
        help="Number of image channels. Default: from the teacher's checkpoint.",
    ),
]
ImageSize = Annotated[
    ImgSize | None,
    option(
        "--img-size",
        parser=parse_img_size,
        metavar="H[xW]",
        rich_help_panel=NETWORKS,
        help="Image size: 224, 224x160 or 192,256 (height first). Default: from the teacher (in your own"
        " code: its attribute `input_size`), else the common size of the images.",
    ),
]
Ema = Annotated[
    bool | None,
    option(
        "--ema/--no-ema",
        metavar="",
        rich_help_panel=NETWORKS,
        help="Use the averaged (EMA) or the raw weights of a checkpoint that holds both.",
    ),
]
UnsafeLoad = Annotated[
    bool,
    option(
        "--unsafe-load",
        metavar="",
        rich_help_panel=NETWORKS,
        help="Allow unsafe unpickling (runs code). Only for files from a trusted source.",
    ),
]
TrustCode = Annotated[
    bool,
    option(
        "--trust-code",
        metavar="",
        rich_help_panel=NETWORKS,
        help="Trust the current version of the Python files that runs and checkpoints name. See `graftcli trust ls`.",
    ),
]
Device = Annotated[
    str,
    option("--device", metavar="NAME", rich_help_panel=RUNNING, help="Compute device: auto, cpu, cuda, cuda:1 or mps."),
]
Seed = Annotated[
    int,
    option(
        "--seed",
        min=0,
        max=2**62,
        metavar="N",
        rich_help_panel=RUNNING,
        help="Random seed. The same seed on the same machine gives the same weights.",
    ),
]
Json = Annotated[
    bool,
    option(
        "--json",
        metavar="",
        rich_help_panel=OUTPUT,
        help="Print the result on stdout, or the error on stderr, as JSON.",
    ),
]
Quiet = Annotated[bool, option("--quiet", "-q", metavar="", rich_help_panel=OUTPUT, help="No progress on stderr.")]

IMAGES = "Images"


Mean = Annotated[
    Channels | None,
    option(
        "--mean",
        parser=lambda text: numbers("--mean", text),
        metavar="R,G,B",
        rich_help_panel=IMAGES,
        help="Per-channel mean (0-1 scale). Default: from the teacher.",
    ),
]
Std = Annotated[
    Channels | None,
    option(
        "--std",
        parser=lambda text: numbers("--std", text),
        metavar="R,G,B",
        rich_help_panel=IMAGES,
        help="Per-channel standard deviation (0-1 scale). Default: from the teacher.",
    ),
]
CropPct = Annotated[
    float | None,
    option(
        "--crop-pct",
        min=0.01,
        metavar="SHARE",
        rich_help_panel=IMAGES,
        help="Share of the resized image that the centre crop keeps. Default: from the teacher.",
    ),
]
Interpolation = Annotated[
    str | None,
    option(
        "--interpolation",
        metavar="NAME",
        rich_help_panel=IMAGES,
        help="bilinear, bicubic, nearest, lanczos, box or hamming. Default: from the teacher.",
    ),
]
Batch = Annotated[int, option("--batch", "-b", min=1, metavar="N", rich_help_panel=RUNNING, help="Batch size.")]
Jobs = Annotated[
    int | None,
    option(
        "--jobs",
        "-j",
        min=1,
        metavar="N",
        rich_help_panel=RUNNING,
        help="Threads that decode images. Default: one per core, at most 16.",
    ),
]
Amp = Annotated[
    bool | None,
    option(
        "--amp/--no-amp",
        metavar="",
        rich_help_panel=RUNNING,
        help="Compute in bfloat16 where it is safe. Default: on CUDA devices with bfloat16 hardware.",
    ),
]
Compile = Annotated[
    bool, option("--compile", metavar="", rich_help_panel=RUNNING, help="Train blocks with torch.compile.")
]
CacheGb = Annotated[
    float | None,
    option(
        "--cache-gb",
        min=0.0,
        metavar="GB",
        rich_help_panel=RUNNING,
        help="RAM for cached teacher features; the rest is stored in the folder of the run. Default: 0.5, or more if"
        " the disk is full.",
    ),
]
ImagesGb = Annotated[
    float | None,
    option(
        "--images-gb",
        min=0.0,
        metavar="GB",
        rich_help_panel=RUNNING,
        help="RAM for decoded images; if they need more, they are decoded into a file in the folder of the run."
        " Default: half of the free RAM.",
    ),
]
DeviceCacheGb = Annotated[
    float | None,
    option(
        "--device-cache-gb",
        min=0.0,
        metavar="GB",
        rich_help_panel=RUNNING,
        help="Memory of the GPU for images and cached teacher features. Default: half of what is free.",
    ),
]
StageBatch = Annotated[
    int | None,
    option("--batch", "-b", min=1, metavar="N", rich_help_panel=RUNNING, help="Batch size. Default: from the recipe."),
]
