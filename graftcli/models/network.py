"""A network with its module, weights, input, classes and origin."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import SupportsIndex

import torch
from torch import nn

from graftcli.errors import GraftError, PairError, UsageError
from graftcli.models.origin import Origin, PreprocessFacts
from graftcli.models.weights import Weights


@dataclass(frozen=True)
class PreprocessDefaults:
    """How an image becomes the network's input: resized to `img_size / crop_pct`, centre-cropped, normalised."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float
    interpolation: str  # "bilinear", "bicubic", …
    squash: bool = False  # whether the image is resized to the crop size without keeping its aspect ratio

    @classmethod
    def read(cls, stored: PreprocessFacts) -> "PreprocessDefaults":
        """Read from JSON; older documents have no `squash`."""
        numbers = tuple(stored["mean"]), tuple(stored["std"]), stored["crop_pct"]
        return cls(*numbers, stored["interpolation"], stored.get("squash", False))

    def for_channels(self, channels: int) -> "PreprocessDefaults":
        """Adapt to `channels` channels; if the number differs, each channel gets the average mean and std."""
        if channels == len(self.mean):
            return self
        mean, std = sum(self.mean) / len(self.mean), sum(self.std) / len(self.std)
        return replace(self, mean=(mean,) * channels, std=(std,) * channels)


IMAGENET = PreprocessDefaults(
    mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), crop_pct=0.875, interpolation="bilinear"
)


SIZE_FIX = "set it as an attribute of the network: input_size = (3, 224, 224)"


@dataclass(frozen=True)
class ModelRequest:
    """The requested classes, channels and image size; None selects the network's default."""

    num_classes: int | None = None
    in_chans: int | None = None
    img_size: tuple[int, int] | None = None

    def __or__(self, other: "ModelRequest") -> "ModelRequest":
        """This request, with `other` for the values that are None."""
        return ModelRequest(
            other.num_classes if self.num_classes is None else self.num_classes,
            other.in_chans if self.in_chans is None else self.in_chans,
            other.img_size if self.img_size is None else self.img_size,
        )


@dataclass(frozen=True)
class Network:
    """A network in eval mode, float32, on the CPU."""

    module: nn.Module
    name: str  # "resnet34", "resnet50.a1_in1k", a factory's name
    source: str  # "timm" | "torchvision" | "hf-hub" | "local-dir" | "file" | "package" | "graftcli" | "teacher"
    weights: Weights
    input_size: tuple[int, int, int]  # C, H, W
    num_classes: int
    preprocess: PreprocessDefaults
    origin: Origin  # JSON; rebuild(origin) makes the same architecture in a new process
    file: Path | None = None  # the file of its weights
    size_is_assumed: bool = False  # whether neither the user nor the network declares `input_size`

    @property
    def made_for(self) -> ModelRequest:
        """The request that this network satisfies."""
        return ModelRequest(self.num_classes, self.input_size[0], self.input_size[1:])


def height_and_width(img_size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """Convert a user's input size; an int means a square."""
    size = (img_size, img_size) if isinstance(img_size, int) else img_size
    if size is None:
        return None
    if isinstance(size, Sequence) and len(size) == 2 and all(isinstance(number, SupportsIndex) for number in size):
        return size[0], size[1]
    raise UsageError(f"img_size is {img_size!r}.", "Give one int for a square, such as 224, or (height, width).")


def model_request(
    num_classes: int | None, in_chans: int | None, img_size: int | tuple[int, int] | None
) -> ModelRequest:
    """Validate the numbers of a user's request."""
    size = height_and_width(img_size)
    for flag, numbers in (("--num-classes", (num_classes,)), ("--in-chans", (in_chans,)), ("--img-size", size or ())):
        if any(number is not None and number < 1 for number in numbers):
            raise UsageError(f"{flag} is {' '.join(map(str, numbers))}.", "It must be at least 1.")
    return ModelRequest(num_classes, in_chans, size)


@contextmanager
def as_pair_error(name: str) -> Iterator[None]:
    """A context to build `name`: errors become one PairError; warnings are hidden."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except GraftError:
        raise
    except Exception as err:
        reason = f"{type(err).__name__}: {' '.join(str(err).split())}"
        fix = "Check that this network supports the given --num-classes, --in-chans and --img-size."
        raise PairError(f"`{name}` cannot be built: {reason.rstrip('.')}.", fix) from err


def measured_outputs(module: nn.Module, input_size: tuple[int, int, int]) -> int:
    """The number of outputs per image: measured, else the width of the last layer, else 0."""
    try:
        with torch.no_grad():
            output = module(torch.zeros(1, *input_size))
    except Exception:  # tracing refuses a network that cannot run, with the failing line
        output = None
    if isinstance(output, torch.Tensor) and output.ndim > 1:
        return output.shape[1]
    layers = [m for m in module.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    return int(layers[-1].weight.shape[0]) if layers else 0


def size_notes(network: Network) -> list[str]:
    """Notes about the assumed input size of a network that is used without images."""
    height, width = network.input_size[1:]
    note = f"{network.name} declares no input size: {height}x{width} is assumed; give --img-size, or {SIZE_FIX}"
    return [note] if network.size_is_assumed else []


def checkpoint_flag(role: str) -> str:
    """The checkpoint flag for a network's role."""
    return "--checkpoint" if role == "model" else f"--{role}-checkpoint"
