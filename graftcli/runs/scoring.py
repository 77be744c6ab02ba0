"""Score models on a folder of images: accuracy, and agreement with a teacher."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graftcli.environment.devices import device_named
from graftcli.errors import CheckpointError, UsageError
from graftcli.images import Images
from graftcli.images import load as load_images
from graftcli.images.labels import Labels
from graftcli.images.labels import read as read_class_folders
from graftcli.images.pixels import Preprocess, center_crop
from graftcli.measure import Accuracy, Agreement, accuracy, agreement, compute_logits
from graftcli.measure.benchmark import candidate_logits
from graftcli.models.cuts.plan import count_parameters
from graftcli.models.loading.safe_pickle import sha256_of
from graftcli.models.network import Network, PreprocessDefaults, height_and_width
from graftcli.runs.onnx_models import OnnxModel

if TYPE_CHECKING:
    from graftcli.models.loading.build import NetworkOptions

Model = Network | OnnxModel


@dataclass(frozen=True)
class PreprocessOptions:
    """Preprocessing that the user overrides; None means the setting of the network."""

    img_size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop_pct: float | None = None
    interpolation: str | None = None


def preprocess_options(
    img_size: int | tuple[int, int] | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    crop_pct: float | None,
    interpolation: str | None,
) -> PreprocessOptions:
    """Collect the preprocessing arguments of a public function; an int as `img_size` means a square."""
    size, means, stds = height_and_width(img_size), per_channel("mean", mean), per_channel("std", std)
    return PreprocessOptions(size, means, stds, crop_pct, interpolation)


def per_channel(name: str, values: Sequence[float] | None) -> tuple[float, ...] | None:
    """The numbers of an argument that has one per channel."""
    if values is None:
        return None
    if isinstance(values, Iterable) and not isinstance(values, str):
        return tuple(values)
    raise UsageError(f"{name} is {values!r}.", f"Give one number per channel, such as {name}=(0.5, 0.5, 0.5).")


def build_options(
    num_classes: int | None, in_chans: int | None, ema: bool | None, unsafe_load: bool, trust_code: bool
) -> "NetworkOptions":
    """Return the network arguments of a public function as keywords of `build`."""
    return {
        "num_classes": num_classes,
        "in_chans": in_chans,
        "ema": ema,
        "unsafe": unsafe_load,
        "trust_code": trust_code,
    }


@dataclass(frozen=True)
class ScoredModel:
    """The scores of one model."""

    name: str
    source: str
    parameters: int
    accuracy: Accuracy | None  # None without class folders
    likeness: Agreement | None  # None without a teacher
    sha256: str | None = None  # of the weights file


@dataclass(frozen=True)
class Evaluation:
    """The scores of several models on the same images."""

    images: int
    broken: tuple[str, ...]
    rule: str | None  # how folder names are mapped to classes
    preprocess: Preprocess
    models: tuple[ScoredModel, ...]
    teacher: str | None = None  # its name and the source of its weights


@dataclass(frozen=True)
class ScoringImages:
    """Images to score models on, with the logits of a teacher."""

    images: Images
    labels: Labels | None
    preprocess: Preprocess
    options: PreprocessOptions
    device: torch.device
    batch: int
    teacher_logits: Tensor | None = None

    def with_teacher(self, teacher: Model, options: PreprocessOptions) -> "ScoringImages":
        """Return the same images with the logits of this teacher, preprocessed with `options`."""
        return replace(self, teacher_logits=replace(self, options=options)._logits(teacher))

    def score(self, model: Model) -> ScoredModel:
        """Score a model on the images."""
        logits = self._logits(model)
        correct = accuracy(logits, self.labels.indices) if self.labels is not None else None
        agreeing = agreement(logits, self.teacher_logits) if self.teacher_logits is not None else None
        parameters = model.candidate.params if isinstance(model, OnnxModel) else count_parameters(model.module)
        digest = sha256_of(model.file) if model.file is not None and model.file.is_file() else None
        return ScoredModel(model.name, model.source, parameters, correct, agreeing, digest)

    def _logits(self, model: Model) -> Tensor:
        preprocess = model_preprocess(model, self.preprocess, self.options)
        if isinstance(model, OnnxModel):
            return candidate_logits(model.candidate, center_crop(self.images.pixels, preprocess), preprocess)
        logits = compute_logits(model.module, self.images.pixels, preprocess, self.device, self.batch)
        if bad := int((~torch.isfinite(logits).all(1)).sum()):
            found = f"`{model.name}` returns logits that are not finite for {bad:,} of {len(logits):,} images."
            raise CheckpointError(found, "Check its weights, and --mean and --std; such logits would count as class 0.")
        return logits


def _has_normalization(model: Model) -> bool:
    """Whether the model specifies its own mean and std; user code usually does not."""
    return not model.lacks_normalization if isinstance(model, OnnxModel) else model.source not in ("file", "package")


_CHANCE_IMAGES = 100  # with fewer images, chance and low accuracy cannot be distinguished


def at_chance(scored: ScoredModel, model: Model) -> Iterator[str]:
    """Yield a hint if a trained model is no better than chance."""
    accuracy, chance = scored.accuracy, 1 / max(1, model.num_classes)
    is_random = isinstance(model, Network) and model.weights.is_random
    if accuracy is None or is_random or accuracy.images < _CHANCE_IMAGES or accuracy.top1.low > chance:
        return
    yield (
        f"{model.name} is at chance: {accuracy.top1.share:.1%} of {accuracy.images:,} images, with"
        f" {model.num_classes:,} classes; check --img-size, --mean and --std, and the order of the classes (--classes)"
    )


def load_scoring_images(
    images: str | Path,
    model: Model,
    options: PreprocessOptions,
    *,
    classes: str | Path | None = None,
    batch: int = 128,
    jobs: int | None = None,
    device: str = "auto",
) -> ScoringImages:
    """Load images with the preprocessing of the model, and their labels if they lie in class folders."""
    preprocess = preprocess_for(model, options)
    loaded = load_images(Path(images), preprocess, jobs=jobs)
    labels = read_labels(images, loaded, model, classes)
    return ScoringImages(loaded, labels, preprocess, options, device_named(device), batch)


def read_labels(images: str | Path, loaded: Images, model: Model, classes: str | Path | None) -> Labels | None:
    """Read the labels from the class folders of the images, as indices of the classes of the model."""
    names = model.class_names if isinstance(model, OnnxModel) else ()
    file = Path(classes) if classes else None
    return read_class_folders(Path(images), loaded.names, model.num_classes, file, names)


def preprocess_for(model: Model, options: PreprocessOptions, *, whole: bool = False) -> Preprocess:
    """Return the preprocessing of a model, with the settings that the user overrides."""
    defaults: PreprocessDefaults = model.preprocess
    channels, height, width = model.input_size
    return Preprocess(
        size=options.img_size or (height, width),
        channels=channels,
        mean=options.mean or defaults.mean,
        std=options.std or defaults.std,
        crop_pct=options.crop_pct or defaults.crop_pct,
        interpolation=options.interpolation or defaults.interpolation,
        whole=whole,
        squash=defaults.squash,
    )


def model_preprocess(model: Model, shared: Preprocess, options: PreprocessOptions) -> Preprocess:
    """Return the shared preprocessing with the mean and std of this model, if it specifies them."""
    if not _has_normalization(model):
        return shared
    defaults = model.preprocess
    return replace(shared, mean=options.mean or defaults.mean, std=options.std or defaults.std)
