"""Export options, the network to export, and the record of an exported file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from graftcli.errors import UsageError
from graftcli.images.pixels import Preprocess, normalise

Format = Literal["onnx", "pt2", "safetensors"]
Precision = Literal["fp32", "fp16", "int8"]
Pixels = Literal["nhwc", "nchw"]

OLDEST_OPSET = 18
_SUFFIXES = {"onnx": ".onnx", "pt2": ".pt2", "safetensors": ".safetensors"}
_MIN_AGREEMENT = {"fp32": 1.0, "fp16": 0.99, "int8": 0.95}  # with the float32 network in PyTorch


@dataclass(frozen=True)
class ExportOptions:
    """How to export a network. Raises UsageError for options that contradict each other."""

    format: Format = "onnx"
    precision: Precision = "fp32"
    static: bool = False  # batch size 1 only
    dynamic_size: bool = False  # any image size
    opset: int | None = None  # of ONNX; None: OLDEST_OPSET
    pixels: Pixels | None = None  # layout of uint8 input, which the file then normalises
    min_agreement: float | None = None  # None: the default of the precision

    def __post_init__(self) -> None:
        for flag, value, known in (
            ("--format", self.format, get_args(Format)),
            ("--precision", self.precision, get_args(Precision)),
            ("--bake-preprocess", self.pixels, (None, *get_args(Pixels))),
        ):
            if value not in known:
                choices = ", ".join(choice for choice in known if choice)
                raise UsageError(f"{flag} {value} is unknown.", f"Known are {choices}.")
        if self.format != "onnx" and (self.precision != "fp32" or self.opset is not None):
            flag = f"--opset {self.opset}" if self.precision == "fp32" else f"--precision {self.precision}"
            raise UsageError(f"{flag} is for ONNX; --format is {self.format}.", f"Remove {flag.split()[0]}.")
        if self.format == "safetensors" and (self.static or self.dynamic_size or self.pixels):
            raise UsageError(
                "a .safetensors file holds weights but no graph, so it has no batch size, image size or preprocessing.",
                "Remove --static, --dynamic-size and --bake-preprocess, or use --format onnx or pt2.",
            )
        if self.static and self.dynamic_size:
            raise UsageError("--static and --dynamic-size contradict each other.", "Remove one of them.")
        if self.opset is not None and self.opset < OLDEST_OPSET:
            raise UsageError(f"--opset {self.opset} is older than {OLDEST_OPSET}.", f"Give {OLDEST_OPSET} or higher.")

    @property
    def required_agreement(self) -> float:
        """The share of images on which the file must match the network's top-1 prediction."""
        return _MIN_AGREEMENT[self.precision] if self.min_agreement is None else self.min_agreement

    @property
    def suffix(self) -> str:
        """The end of the file name: `.onnx`, `-int8.onnx`."""
        part = "" if self.precision == "fp32" else f"-{self.precision}"
        return f"{part}{_SUFFIXES[self.format]}"


@dataclass(frozen=True)
class ExportSource:
    """A network to export, and the images that its file is checked with."""

    module: nn.Module  # in eval mode, float32, on the CPU
    preprocess: Preprocess
    images: Tensor  # uint8 [images, channels, *preprocess.stored_size]
    calibration: Tensor | None = None  # such images for int8; None: `images`
    noise: bool = False  # whether `images` are noise
    facts: Mapping[str, str] = field(default_factory=dict)  # metadata of the file

    def to_inputs(self, cropped: Tensor, options: ExportOptions) -> Tensor:
        """Cropped images as the input of the exported file."""
        if options.pixels is None:
            return normalise(cropped, self.preprocess)
        return cropped.permute(0, 2, 3, 1).contiguous() if options.pixels == "nhwc" else cropped.contiguous()


@dataclass(frozen=True)
class Exported:
    """The record of an exported file, which passed its check."""

    path: str
    format: Format
    precision: Precision
    opset: int | None
    size: int  # bytes
    error: float  # largest difference from PyTorch, relative to the largest logit
    agreement: float  # share of images with the same top-1 prediction as PyTorch
    images: int
    noise: bool  # whether the images were noise
    layers: int = 0  # quantisable layers
    in_float: tuple[str, ...] = ()  # those kept in float, the most sensitive first


class FromPixels(nn.Module):
    """A network with normalisation: takes uint8 pixels in `order`, and returns network(normalise(pixels))."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, preprocess: Preprocess, order: Pixels) -> None:
        super().__init__()
        self.network, self.order = network, order
        for name, values in (("mean", preprocess.mean), ("std", preprocess.std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        if self.order == "nhwc":
            pixels = pixels.permute(0, 3, 1, 2)
        logits: Tensor = self.network((pixels.float() / 255 - self.mean) / self.std)
        return logits


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
