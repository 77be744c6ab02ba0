"""The registry of export formats, the options of an export, and the network to export.

torch is imported when a file is made, so that help texts can list the formats without it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from graftcli.errors import UsageError
from graftcli.formatting import one_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from graftcli.events import Listener
    from graftcli.formats.match import ParityCheck, Runner
    from graftcli.images.preprocess import Preprocess
    from graftcli.store.model_card import CardFacts

Precision = Literal["fp32", "fp16", "int8"]
Pixels = Literal["nhwc", "nchw"]

DEFAULT_FORMAT = "onnx"
OLDEST_OPSET = 18
NAMES_IN_RUN = ("student", "hybrid")  # name of the files that are exported into the folder of a run
MIN_AGREEMENT: Mapping[Precision, float] = {"fp32": 1.0, "fp16": 0.99, "int8": 0.95}  # with float32 in PyTorch


# -- formats ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class QuantisedLayers:
    """What was quantised to int8."""

    layers: int = 0  # quantisable layers
    in_float: tuple[str, ...] = ()  # those kept in float, the most sensitive first


@dataclass(frozen=True)
class Encoded:
    """The content of a file, and what was quantised in it."""

    data: bytes
    quantised: QuantisedLayers = QuantisedLayers()


@dataclass(frozen=True)
class ExportFormat:
    """A file format that networks are exported to.

    Parameters:
        name: The value of `--format`.
        suffix: The file suffix.
        about: A description of its files, for help texts.
        encode: Makes the content of a file.
        runner: Reads the content back, as a function that the parity check runs.
        precisions: The precisions that `encode` supports.
        has_graph: Whether files hold the graph, and so may fix the batch size and include the preprocessing.
        has_opset: Whether files have an ONNX opset.
        is_benchmarked: Whether `bench` and `export --bench` measure files.
        single: How `distill --out FILE` makes a file: by exporting the network, or by copying the weights. None if
            it does not.
    """

    name: str
    suffix: str
    about: str
    encode: "Callable[[ExportSource, ExportOptions, ParityCheck, Listener], Encoded]"
    runner: "Callable[[bytes], Runner]"
    precisions: tuple[Precision, ...] = ("fp32",)
    has_graph: bool = True
    has_opset: bool = False
    is_benchmarked: bool = False
    single: Literal["exported", "copied"] | None = None


FORMATS: dict[str, ExportFormat] = {}  # by name, in the order of messages


def add_format(export_format: ExportFormat) -> None:
    """Add a format to the registry."""
    FORMATS[export_format.name] = export_format


def format_of(path: Path) -> ExportFormat | None:
    """The format whose suffix ends the name of a file, the longest of several; None if it has none of them."""
    matching = [known for known in FORMATS.values() if path.name.lower()[1:].endswith(known.suffix)]
    return max(matching, key=lambda known: len(known.suffix), default=None)


def single_suffixes() -> list[str]:
    """The suffixes of the files that `distill --out FILE` writes."""
    return [known.suffix for known in FORMATS.values() if known.single is not None]


def files_in_run() -> tuple[str, ...]:
    """The names of the files that are exported into the folder of a run if no file is named."""
    return tuple(
        f"{name}{_ending(known, precision)}"
        for name in NAMES_IN_RUN
        for known in FORMATS.values()
        for precision in known.precisions
    )


def _ending(export_format: ExportFormat, precision: Precision) -> str:
    return f"{'' if precision == 'fp32' else f'-{precision}'}{export_format.suffix}"


# -- options ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ExportOptions:
    """How to export a network. Raises UsageError for options that contradict each other."""

    format: str = DEFAULT_FORMAT
    precision: Precision = "fp32"
    static: bool = False  # batch size 1 only
    dynamic_size: bool = False  # any image size
    opset: int | None = None  # of ONNX; None: OLDEST_OPSET
    pixels: Pixels | None = None  # layout of uint8 input, which the file then normalises
    min_agreement: float | None = None  # None: the default of the precision

    def __post_init__(self) -> None:
        _check_names(self)
        _check_supported(self)
        if self.static and self.dynamic_size:
            raise UsageError("--static and --dynamic-size contradict each other.", "Remove one of them.")
        if self.opset is not None and self.opset < OLDEST_OPSET:
            raise UsageError(f"--opset {self.opset} is older than {OLDEST_OPSET}.", f"Give {OLDEST_OPSET} or higher.")

    @property
    def kind(self) -> ExportFormat:
        """The format."""
        return FORMATS[self.format]

    @property
    def required_agreement(self) -> float:
        """The share of images on which the file must match the network's top-1 prediction."""
        return MIN_AGREEMENT[self.precision] if self.min_agreement is None else self.min_agreement

    @property
    def suffix(self) -> str:
        """The end of the file name: `.onnx`, `-int8.onnx`."""
        return _ending(self.kind, self.precision)


def _check_names(options: ExportOptions) -> None:
    """Refuse values that are not in their registry."""
    for flag, value, known in (
        ("--format", options.format, tuple(FORMATS)),
        ("--precision", options.precision, get_args(Precision)),
        ("--bake-preprocess", options.pixels, (None, *get_args(Pixels))),
    ):
        if value not in known:
            choices = ", ".join(choice for choice in known if choice)
            raise UsageError(f"{flag} {value} is unknown.", f"Known are {choices}.")


def _check_supported(options: ExportOptions) -> None:
    """Refuse options that the format does not support."""
    kind = options.kind
    if options.precision not in kind.precisions:
        supporting = [known for known in FORMATS.values() if options.precision in known.precisions]
        raise _unsupported("--precision", options.precision, kind, supporting)
    if options.opset is not None and not kind.has_opset:
        raise _unsupported("--opset", options.opset, kind, [known for known in FORMATS.values() if known.has_opset])
    if not kind.has_graph and (options.static or options.dynamic_size or options.pixels):
        with_graph = one_of(known.name for known in FORMATS.values() if known.has_graph)
        raise UsageError(
            f"a {kind.suffix} file holds {kind.about} but no graph, so it has no batch size, image size or"
            " preprocessing.",
            f"Remove --static, --dynamic-size and --bake-preprocess, or use --format {with_graph}.",
        )


def _unsupported(flag: str, value: object, kind: ExportFormat, supporting: Sequence[ExportFormat]) -> UsageError:
    formats = one_of(known.about for known in supporting)
    return UsageError(f"{flag} {value} is supported by {formats}; --format is {kind.name}.", f"Remove {flag}.")


# -- what is exported ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ExportSource:
    """A network to export, and the images that its file is checked with."""

    module: "nn.Module"  # in eval mode, float32, on the CPU
    preprocess: "Preprocess"
    images: "Tensor"  # uint8 [images, channels, *preprocess.stored_size]
    calibration: "Tensor | None" = None  # such images for int8; None: `images`
    noise: bool = False  # whether `images` are noise
    facts: Mapping[str, str] = field(default_factory=dict)  # metadata of the file
    card: "CardFacts | None" = None  # how to rebuild the network, for formats without a graph

    def to_inputs(self, cropped: "Tensor", options: ExportOptions) -> "Tensor":
        """Cropped images as the input of the exported file."""
        from graftcli.images.pixels import normalise

        if options.pixels is None:
            return normalise(cropped, self.preprocess)
        return cropped.permute(0, 2, 3, 1).contiguous() if options.pixels == "nhwc" else cropped.contiguous()


@dataclass(frozen=True)
class Exported:
    """The record of an exported file, which passed its check."""

    path: str
    format: str
    precision: Precision
    opset: int | None
    size: int  # bytes
    error: float  # largest difference from PyTorch, relative to the largest logit
    agreement: float  # share of images with the same top-1 prediction as PyTorch
    images: int
    noise: bool  # whether the images were noise
    layers: int = 0  # quantisable layers
    in_float: tuple[str, ...] = ()  # those kept in float, the most sensitive first


def source_facts(
    teacher: str | None,
    student: str,
    blocks: Sequence[str] | None = None,
    images: str | None = None,
    classes: Sequence[str] | None = None,
) -> dict[str, str]:
    """Metadata for an exported file: its networks, the digest of its training images, and its class names."""
    facts = {
        "teacher": teacher,
        "student": student,
        "blocks": json.dumps(list(blocks)) if blocks else None,  # of a hybrid: teacher or student, per block
        "images_sha256": images,
        "classes": json.dumps(list(classes), ensure_ascii=False) if classes else None,
    }
    return {name: value for name, value in facts.items() if value is not None}
