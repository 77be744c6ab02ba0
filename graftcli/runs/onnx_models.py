"""ONNX files as models that can be scored and benchmarked."""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from graftcli.environment.machine import usable_cores
from graftcli.images.pixels import Preprocess
from graftcli.measure.benchmark import candidate_logits
from graftcli.measure.candidate import Candidate
from graftcli.measure.onnx.facts import OnnxMetadata, read_onnx
from graftcli.measure.onnx.session import onnx_candidate
from graftcli.models.network import IMAGENET, PreprocessDefaults

_DEFAULT_SIZE = (224, 224)  # input size of a model with a dynamic size, if none is given


@dataclass(frozen=True)
class OnnxModel:
    """An ONNX model with the attributes of a `Network`."""

    candidate: Candidate
    name: str
    input_size: tuple[int, int, int]  # C, H, W
    preprocess: PreprocessDefaults
    class_names: tuple[str, ...]  # from the metadata of the file; may be empty
    lacks_normalization: bool  # whether its metadata has no mean and std, so that those of ImageNet are used
    source: str = "onnx"
    file: Path | None = None

    @cached_property
    def num_classes(self) -> int:
        """The number of logits, found by running the model once: not every file contains it."""
        channels, *size = self.candidate.size
        preprocess = Preprocess((size[0], size[1]), channels, (0.0,) * channels, (1.0,) * channels, 1.0, "bilinear")
        stripes = torch.arange(math.prod(self.candidate.size)).remainder(251).to(torch.uint8)
        return candidate_logits(self.candidate, stripes.reshape(1, *self.candidate.size), preprocess).shape[1]


def is_onnx(spec: str | Path) -> bool:
    """Whether a spec is the path of an ONNX file."""
    return Path(spec).suffix == ".onnx"


def onnx_model(
    file: Path, size: tuple[int, int] | None = None, channels: int | None = None, threads: int | None = None
) -> OnnxModel:
    """Load an ONNX model that runs on `threads` threads; `size` and `channels` replace dynamic dimensions."""
    metadata = read_onnx(file).metadata
    channels = channels or len(metadata.mean or IMAGENET.mean)
    candidate = onnx_candidate(
        file, threads or usable_cores(), size=(channels, *(size or metadata.size or _DEFAULT_SIZE))
    )
    defaults, lacks_normalization = _preprocess(metadata, candidate.size[0])
    return OnnxModel(candidate, file.name, candidate.size, defaults, metadata.classes, lacks_normalization, file=file)


def _preprocess(metadata: OnnxMetadata, channels: int) -> tuple[PreprocessDefaults, bool]:
    defaults = IMAGENET.for_channels(channels)
    crop, kernel = metadata.crop_pct or defaults.crop_pct, metadata.interpolation or defaults.interpolation
    if metadata.mean is None or metadata.std is None or {len(metadata.mean), len(metadata.std)} != {channels}:
        return PreprocessDefaults(defaults.mean, defaults.std, crop, kernel, metadata.squash), True
    return PreprocessDefaults(metadata.mean, metadata.std, crop, kernel, metadata.squash), False
