"""What is exported, how it is to be written, and what came of it."""

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
_AGREEMENT = {"fp32": 1.0, "fp16": 0.99, "int8": 0.95}  # with the float32 network in PyTorch


@dataclass(frozen=True)
class ExportOptions:
    """How a network is to be written; made only where its wishes go together."""

    format: Format = "onnx"
    precision: Precision = "fp32"
    static: bool = False  # batches of one, alone
    dynamic_size: bool = False  # any image size
    opset: int | None = None  # of ONNX; None: the oldest that is written
    pixels: Pixels | None = None  # the order of uint8 pixels, where the file is to normalise them itself
    min_agreement: float | None = None

    def __post_init__(self) -> None:
        for flag, value, known in (
            ("--format", self.format, get_args(Format)),
            ("--precision", self.precision, get_args(Precision)),
            ("--bake-preprocess", self.pixels, (None, *get_args(Pixels))),
        ):
            if value not in known:
                listed = ", ".join(one for one in known if one)
                raise UsageError(f"{flag} {value} is unknown.", f"Known are {listed}.")
        if self.format != "onnx" and (self.precision != "fp32" or self.opset is not None):
            asked = f"--opset {self.opset}" if self.precision == "fp32" else f"--precision {self.precision}"
            raise UsageError(f"{asked} is for ONNX; --format is {self.format}.", f"Leave out {asked.split()[0]}.")
        if self.format == "safetensors" and (self.static or self.dynamic_size or self.pixels):
            raise UsageError(
                "a .safetensors file holds weights and no graph: it has no batch, size or preprocessing of its own.",
                "Leave out --static, --dynamic-size and --bake-preprocess, or take --format onnx or pt2.",
            )
        if self.static and self.dynamic_size:
            raise UsageError("--static and --dynamic-size contradict each other.", "Leave out one of them.")
        if self.opset is not None and self.opset < OLDEST_OPSET:
            raise UsageError(f"--opset {self.opset} is older than what is written here.", f"Give {OLDEST_OPSET} up.")

    @property
    def least_agreement(self) -> float:
        """The share of images on which the file must give the network's answer."""
        return _AGREEMENT[self.precision] if self.min_agreement is None else self.min_agreement

    @property
    def ending(self) -> str:
        """How the name of such a file ends: `.onnx`, `-int8.onnx`."""
        part = "" if self.precision == "fp32" else f"-{self.precision}"
        return f"{part}{_SUFFIXES[self.format]}"


@dataclass(frozen=True)
class ExportSource:
    """A network to export, and the images that its file is checked on."""

    module: nn.Module  # in eval mode, float32, on the CPU
    preprocess: Preprocess
    images: Tensor  # uint8 [images, channels, height, width], as `Fit` makes them
    calibration: Tensor | None = None  # more such images, for int8; None: the same
    noise: bool = False  # whether `images` are noise, for want of real ones
    facts: Mapping[str, str] = field(default_factory=dict)  # what the file tells of the network

    def shown(self, cropped: Tensor, form: ExportOptions) -> Tensor:
        """Images of the network's size, as the exported file takes them."""
        if form.pixels is None:
            return normalise(cropped, self.preprocess)
        return cropped.permute(0, 2, 3, 1).contiguous() if form.pixels == "nhwc" else cropped.contiguous()


@dataclass(frozen=True)
class Exported:
    """A file that was checked before it got its name."""

    path: str
    format: Format
    precision: Precision
    opset: int | None
    size: int  # bytes
    error: float  # the largest difference to PyTorch, as a share of the largest logit
    agreement: float  # the share of images with the same first answer as in PyTorch
    images: int
    noise: bool  # whether those were noise
    layers: int = 0  # that could be quantised
    in_float: tuple[str, ...] = ()  # of these, the sensitive ones that were not


class FromPixels(nn.Module):
    """FromPixels(network, fit, order)(pixels) == network(normalise(pixels, fit)), for uint8 pixels in that order."""

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


def about(
    teacher: str | None,
    student: str,
    blocks: Sequence[str] | None = None,
    images: str | None = None,
    classes: Sequence[str] | None = None,
) -> dict[str, str]:
    """What a file tells of its network: where it comes from, what it was trained on, what its answers mean."""
    known = {
        "teacher": teacher,
        "student": student,
        "blocks": json.dumps(list(blocks)) if blocks else None,  # of a hybrid: whose each of them is
        "images_sha256": images,
        "classes": json.dumps(list(classes), ensure_ascii=False) if classes else None,
    }
    return {name: value for name, value in known.items() if value is not None}
