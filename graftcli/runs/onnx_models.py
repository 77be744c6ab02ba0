"""ONNX files as models that are scored and measured: what a command knows of a network, read from the file."""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from graftcli.environment.machine import usable_cores
from graftcli.images.pixels import Preprocess
from graftcli.measure.benchmark import Candidate, answers
from graftcli.measure.onnx.facts import OnnxMetadata, read_onnx
from graftcli.measure.onnx.session import of_file
from graftcli.models.network import IMAGENET, PreprocessDefaults

_OPEN = (224, 224)  # the images of a file that leaves their size open, where nothing else says it


@dataclass(frozen=True)
class OnnxModel:
    """Its facts are called as a `Network`'s are."""

    rung: Candidate
    name: str
    input_size: tuple[int, int, int]  # C, H, W
    preprocess: PreprocessDefaults
    called: tuple[str, ...]  # its classes, where it says so
    mute: bool  # whether it does not say how images are normalised; then ImageNet's way is taken
    source: str = "onnx"
    file: Path | None = None

    @cached_property
    def num_classes(self) -> int:
        """The model is asked, once and where it matters, for not every file says so."""
        channels, *size = self.rung.size
        preprocess = Preprocess((size[0], size[1]), channels, (0.0,) * channels, (1.0,) * channels, 1.0, "bilinear")
        stripes = torch.arange(math.prod(self.rung.size)).remainder(251).to(torch.uint8)
        return answers(self.rung, stripes.reshape(1, *self.rung.size), preprocess).shape[1]


def is_onnx(spec: str | Path) -> bool:
    return Path(spec).suffix == ".onnx"


def onnx_model(
    file: Path, size: tuple[int, int] | None = None, channels: int | None = None, threads: int | None = None
) -> OnnxModel:
    """The model in a file, run by `threads` threads; `size` and `channels` are its images', where it takes any."""
    told = read_onnx(file).told
    channels = channels or len(told.mean or IMAGENET.mean)
    rung = of_file(file, threads or usable_cores(), size=(channels, *(size or told.size or _OPEN)))
    own, mute = _preprocess(told, rung.size[0])
    return OnnxModel(rung, file.name, rung.size, own, told.classes, mute, file=file)


def _preprocess(told: OnnxMetadata, channels: int) -> tuple[PreprocessDefaults, bool]:
    own = IMAGENET.for_channels(channels)
    crop, kernel = told.crop_pct or own.crop_pct, told.interpolation or own.interpolation
    if told.mean is None or told.std is None or {len(told.mean), len(told.std)} != {channels}:
        return PreprocessDefaults(own.mean, own.std, crop, kernel, told.squash), True
    return PreprocessDefaults(told.mean, told.std, crop, kernel, told.squash), False
