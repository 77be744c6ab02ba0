"""The options that several commands share, each with its GRAFTCLI_* variable: default < recipe < variable < flag."""

import re
from typing import Annotated, Any, NamedTuple

import typer

from graftcli.cli.limits import LARGEST_IMAGE, bounded
from graftcli.errors import UsageError

NETWORKS = "Networks"
RUNNING = "Running"
OUTPUT = "Output"


class ImgSize(NamedTuple):
    """Height and width of the images that a network sees."""

    height: int
    width: int


def parse_img_size(text: str) -> ImgSize:
    """`224` is a square; `224x160` and `224,160` are height and width."""
    found = re.fullmatch(r"([0-9]{1,9})(?:[x,]([0-9]{1,9}))?", text.strip().lower())
    if not found:
        raise UsageError(
            f"--img-size {text[:60]!r} is no image size.",
            "Give one number for a square, as 224, or height and width, as 224x160 or 224,160.",
        )
    height = int(found[1])
    size = ImgSize(height, int(found[2] or height))
    if not 1 <= min(size) <= max(size) <= LARGEST_IMAGE:
        found_size = f"--img-size {text.strip()} is out of range."
        raise UsageError(found_size, f"Give a height and a width from 1 to {LARGEST_IMAGE:,}.")
    return size


def option(*flags: str, **more: Any) -> Any:
    """A Typer option whose variable is named after its first flag: `--img-size` reads GRAFTCLI_IMG_SIZE."""
    name = flags[0].split("/")[0].removeprefix("--")
    variable = f"GRAFTCLI_{name.replace('-', '_').upper()}"
    limits = bounded(flags[0].split("/")[0], more)
    return typer.Option(*flags, envvar=variable, show_envvar=False, **limits)  # the main help tells the rule once


_SPEC = "resnet34, timm:…, torchvision:name@WEIGHTS, hf-hub:org/repo, local-dir:path, file.py:factory(depth=20), or a file or folder that graftcli wrote"  # noqa: E501

_MADE = "made from the teacher: teacher*0.5, teacher*(1,1,.5,.5), prune:l1=0.5, prune:slim=0.5, prune:act=0.5, lowrank:0.5, decouple, drop:layer3.3,layer3.4 or drop:auto=2"  # noqa: E501

Teacher = Annotated[
    str,
    option("--teacher", metavar="SPEC", rich_help_panel=NETWORKS, help=f"The trained network: {_SPEC}."),
]
Student = Annotated[
    str,
    option(
        "--student", metavar="SPEC", rich_help_panel=NETWORKS, help=f"The smaller network, named so too, or {_MADE}."
    ),
]
TeacherCheckpoint = Annotated[
    str | None,
    option(
        "--teacher-checkpoint",
        metavar="FILE",
        rich_help_panel=NETWORKS,
        help="The teacher's weights; `none` for random ones. Without it: the weights its name stands for.",
    ),
]
StudentCheckpoint = Annotated[
    str | None,
    option(
        "--student-checkpoint",
        metavar="FILE",
        rich_help_panel=NETWORKS,
        help="First weights for the student.",
    ),
]
NumClasses = Annotated[
    int | None,
    option(
        "--num-classes",
        min=1,
        metavar="N",
        rich_help_panel=NETWORKS,
        help="Classes. Without it: as many as the teacher's checkpoint holds.",
    ),
]
InChans = Annotated[
    int | None,
    option(
        "--in-chans",
        min=1,
        metavar="N",
        rich_help_panel=NETWORKS,
        help="Channels of an image. Without it: as many as the teacher's checkpoint reads.",
    ),
]
ImageSize = Annotated[
    ImgSize | None,
    option(
        "--img-size",
        parser=parse_img_size,
        metavar="H[xW]",
        rich_help_panel=NETWORKS,
        help="Image size: 224, 224x160 or 192,256 (height first). Without it: the teacher's own.",
    ),
]
Ema = Annotated[
    bool | None,
    option(
        "--ema/--no-ema",
        metavar="",
        rich_help_panel=NETWORKS,
        help="Which weights to take from a checkpoint that holds averaged (EMA) ones too.",
    ),
]
UnsafeLoad = Annotated[
    bool,
    option(
        "--unsafe-load",
        metavar="",
        rich_help_panel=NETWORKS,
        help="Let a pickled checkpoint run its code. Only for files whose maker you trust.",
    ),
]
TrustCode = Annotated[
    bool,
    option(
        "--trust-code",
        metavar="",
        rich_help_panel=NETWORKS,
        help="Trust the Python files that runs and files name, with the bytes they have now. See `graftcli trust ls`.",
    ),
]
Device = Annotated[
    str,
    option(
        "--device",
        metavar="NAME",
        rich_help_panel=RUNNING,
        help="Where to compute: auto, cpu, cuda, cuda:1 or mps.",
    ),
]
Seed = Annotated[
    int,
    option(
        "--seed",
        min=0,
        max=2**62,
        metavar="N",
        rich_help_panel=RUNNING,
        help="The same seed on the same machine gives the same weights.",
    ),
]
Json = Annotated[
    bool,
    option("--json", metavar="", rich_help_panel=OUTPUT, help="Write the result, or the error on stderr, as JSON."),
]
Quiet = Annotated[
    bool,
    option("--quiet", "-q", metavar="", rich_help_panel=OUTPUT, help="No progress on stderr."),
]

IMAGES = "Images"


class Channels(tuple[float, ...]):
    """One number a channel; a class of its own, for Typer would make a tuple of several arguments."""


def numbers(flag: str, text: str) -> Channels:
    """`0.485,0.456,0.406` -> three numbers."""
    try:
        return Channels(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"{flag} {text!r} holds no numbers.", f"Give one a channel, as {flag} 0.485,0.456,0.406."
        ) from None


Mean = Annotated[
    Channels | None,
    option(
        "--mean",
        parser=lambda text: numbers("--mean", text),
        metavar="R,G,B",
        rich_help_panel=IMAGES,
        help="What is taken from each channel. Without it: the teacher's own.",
    ),
]
Std = Annotated[
    Channels | None,
    option(
        "--std",
        parser=lambda text: numbers("--std", text),
        metavar="R,G,B",
        rich_help_panel=IMAGES,
        help="What each channel is divided by. Without it: the teacher's own.",
    ),
]
CropPct = Annotated[
    float | None,
    option(
        "--crop-pct",
        min=0.01,
        metavar="SHARE",
        rich_help_panel=IMAGES,
        help="Image size over the size that is resized to before the centre crop. Without it: the teacher's own.",
    ),
]
Interpolation = Annotated[
    str | None,
    option(
        "--interpolation",
        metavar="NAME",
        rich_help_panel=IMAGES,
        help="bilinear, bicubic, nearest, lanczos, box or hamming. Without it: the teacher's own.",
    ),
]
Batch = Annotated[
    int, option("--batch", "-b", min=1, metavar="N", rich_help_panel=RUNNING, help="Images computed at once.")
]
Jobs = Annotated[
    int | None,
    option(
        "--jobs",
        "-j",
        min=1,
        metavar="N",
        rich_help_panel=RUNNING,
        help="Threads that decode images. Without it: one a core, 16 at most.",
    ),
]
Amp = Annotated[
    bool, option("--amp", metavar="", rich_help_panel=RUNNING, help="Compute in bfloat16 where that is safe.")
]
Compile = Annotated[
    bool,
    option(
        "--compile", metavar="", rich_help_panel=RUNNING, help="Compile what trains blocks with torch.compile first."
    ),
]
CacheGb = Annotated[
    float | None,
    option(
        "--cache-gb",
        min=0.0,
        metavar="GB",
        rich_help_panel=RUNNING,
        help="Memory for cached teacher features; the rest lies in the run's folder. Without it: half a gigabyte, and"
        " more where that disk is full.",
    ),
]
StageBatch = Annotated[
    int | None,
    option(
        "--batch", "-b", min=1, metavar="N", rich_help_panel=RUNNING, help="Views a step. Without it: the recipe's."
    ),
]
