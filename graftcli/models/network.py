"""What every part of graftcli knows of a network: module, weights, input, classes, and where it came from."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graftcli.errors import GraftError, PairError, UsageError


@dataclass(frozen=True)
class PreprocessDefaults:
    """How an image becomes the network's input: resized to `img_size / crop_pct`, centre-cropped, normalised."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float
    interpolation: str  # "bilinear", "bicubic", …
    squash: bool = False  # whether both sides are resized, whatever the image's proportions

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> "PreprocessDefaults":
        """Out of the plain JSON in which graftcli keeps it; squash is younger than the others."""
        numbers = tuple(said["mean"]), tuple(said["std"]), said["crop_pct"]
        return cls(*numbers, said["interpolation"], said.get("squash", False))

    def for_channels(self, channels: int) -> "PreprocessDefaults":
        """The same for images of `channels` channels: each gets the average mean and std where the numbers differ."""
        if channels == len(self.mean):
            return self
        mean, std = sum(self.mean) / len(self.mean), sum(self.std) / len(self.std)
        return replace(self, mean=(mean,) * channels, std=(std,) * channels)


IMAGENET = PreprocessDefaults(
    mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), crop_pct=0.875, interpolation="bilinear"
)


@dataclass(frozen=True)
class ModelRequest:
    """What a network is asked to be built for; None leaves the choice to the network."""

    num_classes: int | None = None
    in_chans: int | None = None
    img_size: tuple[int, int] | None = None

    def __or__(self, other: "ModelRequest") -> "ModelRequest":
        """These wishes, and `other`'s where this one has none."""
        return ModelRequest(
            other.num_classes if self.num_classes is None else self.num_classes,
            other.in_chans if self.in_chans is None else self.in_chans,
            other.img_size if self.img_size is None else self.img_size,
        )


@dataclass(frozen=True)
class Network:
    """A network that is ready to be cut: in eval mode, float32, on the CPU."""

    module: nn.Module
    name: str  # "resnet34", "resnet50.a1_in1k", a factory's name
    source: str  # "timm" | "torchvision" | "hf-hub" | "local-dir" | "file" | "package" | "graftcli" | "teacher"
    weights: str  # a sentence: "random", "pretrained (timm/resnet34.a1_in1k)", "resnet56.th: 277 of 277 tensors"
    input_size: tuple[int, int, int]  # C, H, W
    num_classes: int
    preprocess: PreprocessDefaults
    origin: dict[str, Any]  # plain JSON; rebuild(origin) makes the same architecture in a fresh process
    file: Path | None = None  # where its weights were read from

    @property
    def made_for(self) -> ModelRequest:
        """The wishes that this network fulfils."""
        return ModelRequest(self.num_classes, self.input_size[0], self.input_size[1:])


def asked(num_classes: int | None, in_chans: int | None, img_size: int | tuple[int, int] | None) -> ModelRequest:
    """The wishes of a user, whose numbers are positive."""
    size = (img_size, img_size) if isinstance(img_size, int) else img_size
    for flag, numbers in (("--num-classes", (num_classes,)), ("--in-chans", (in_chans,)), ("--img-size", size or ())):
        if any(number is not None and number < 1 for number in numbers):
            raise UsageError(f"{flag} is {' '.join(map(str, numbers))}.", "Give a number of at least 1.")
    return ModelRequest(num_classes, in_chans, size)


@contextmanager
def making(name: str) -> Iterator[None]:
    """Whatever keeps somebody's code from making `name` becomes one PairError; its warnings are none of the user's."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except GraftError:
        raise
    except Exception as err:
        reason = f"{type(err).__name__}: {' '.join(str(err).split())}"
        mend = "Check --num-classes, --in-chans and --img-size against what this network can be built for."
        raise PairError(f"`{name}` cannot be built: {reason.rstrip('.')}.", mend) from err


def measured_width(module: nn.Module, input_size: tuple[int, int, int]) -> int:
    """How many numbers the network gives for an image: measured, else what its last layer declares, else 0."""
    try:
        with torch.no_grad():
            answer = module(torch.zeros(1, *input_size))
    except Exception:  # a network that cannot run is refused where it is traced, with the line that stopped it
        answer = None
    if isinstance(answer, torch.Tensor) and answer.ndim > 1:
        return answer.shape[1]
    layers = [m for m in module.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    return int(layers[-1].weight.shape[0]) if layers else 0


def checkpoint_flag(role: str) -> str:
    """The flag that gives a network its weights, by the network's role."""
    return "--checkpoint" if role == "model" else f"--{role}-checkpoint"
