"""Networks scored on a folder of images: how often they are right, how often they answer as their teacher does."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from graftcli import images as pictures
from graftcli.environment.devices import device_named
from graftcli.errors import CheckpointError
from graftcli.images import labels as naming
from graftcli.images.pixels import Preprocess, centre
from graftcli.measure import Accuracy, Agreement, accuracy, likeness, logits
from graftcli.measure.benchmark import answers
from graftcli.models.cuts.plan import count_parameters
from graftcli.models.loading.safe_pickle import sha256_of
from graftcli.models.network import Network, PreprocessDefaults
from graftcli.runs.onnx_models import OnnxModel

Model = Network | OnnxModel


@dataclass(frozen=True)
class PreprocessOptions:
    """What a user says of how images become the network's input; None: as the network's own settings have it."""

    img_size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop_pct: float | None = None
    interpolation: str | None = None


@dataclass(frozen=True)
class ScoredModel:
    name: str
    source: str
    parameters: int
    accuracy: Accuracy | None  # None where the folder has no class folders
    likeness: Agreement | None  # None without a teacher
    sha256: str | None = None  # of the file that its weights were read from


@dataclass(frozen=True)
class Evaluation:
    images: int
    broken: tuple[str, ...]
    rule: str | None  # how folder names became classes
    preprocess: Preprocess
    models: tuple[ScoredModel, ...]
    teacher: str | None = None  # with its weights


@dataclass(frozen=True)
class ScoringImages:
    """Images that networks are scored on, with what a teacher says of them."""

    images: pictures.Images
    labels: naming.Labels | None
    preprocess: Preprocess
    look: PreprocessOptions
    device: torch.device
    batch: int
    says: Tensor | None = None

    def beside(self, teacher: Model, look: PreprocessOptions) -> "ScoringImages":
        """The same images with this teacher's logits of them, as `look` has them normalised."""
        return replace(self, says=replace(self, look=look)._answers(teacher))

    def score(self, model: Model) -> ScoredModel:
        given = self._answers(model)
        right = accuracy(given, self.labels.indices) if self.labels is not None else None
        like = likeness(given, self.says) if self.says is not None else None
        count = model.rung.params if isinstance(model, OnnxModel) else count_parameters(model.module)
        digest = sha256_of(model.file) if model.file is not None and model.file.is_file() else None
        return ScoredModel(model.name, model.source, count, right, like, digest)

    def _answers(self, model: Model) -> Tensor:
        preprocess = fit_of(model, self.preprocess, self.look)
        if isinstance(model, OnnxModel):
            return answers(model.rung, centre(self.images.pixels, preprocess), preprocess)
        found = logits(model.module, self.images.pixels, preprocess, self.device, self.batch)
        if bad := int((~torch.isfinite(found).all(1)).sum()):
            problem = f"`{model.name}` gives logits that are not finite on {bad:,} of {len(found):,} images."
            raise CheckpointError(
                problem, "Check its weights, and --mean and --std; such logits would count as class 0."
            )
        return found


def _says_how(model: Model) -> bool:
    """Whether a model says itself how images are normalised; a user's own code mostly does not."""
    return not model.mute if isinstance(model, OnnxModel) else model.source not in ("file", "package")


def scoring_on(
    images: str | Path,
    model: Model,
    look: PreprocessOptions,
    *,
    classes: str | Path | None = None,
    batch: int = 128,
    jobs: int | None = None,
    device: str = "auto",
) -> ScoringImages:
    """A folder's images as the model wants them, with their labels where they lie in class folders."""
    preprocess = preprocess_for(model, look)
    loaded = pictures.load(Path(images), preprocess, jobs=jobs)
    return ScoringImages(
        loaded, labels_of(images, loaded, model, classes), preprocess, look, device_named(device), batch
    )


def labels_of(
    images: str | Path, loaded: pictures.Images, model: Model, classes: str | Path | None
) -> naming.Labels | None:
    """What the class folders of the images say, in the order of the model's classes."""
    called = model.called if isinstance(model, OnnxModel) else ()
    return naming.read(Path(images), loaded.names, model.num_classes, Path(classes) if classes else None, called)


def preprocess_for(network: Model, look: PreprocessOptions, *, whole: bool = False) -> Preprocess:
    """How images are made ready for a network: its own settings, and what the user says instead."""
    own: PreprocessDefaults = network.preprocess
    channels, height, width = network.input_size
    return Preprocess(
        size=look.img_size or (height, width),
        channels=channels,
        mean=look.mean or own.mean,
        std=look.std or own.std,
        crop_pct=look.crop_pct or own.crop_pct,
        interpolation=look.interpolation or own.interpolation,
        whole=whole,
        squash=own.squash,
    )


def fit_of(model: Model, shared: Preprocess, look: PreprocessOptions) -> Preprocess:
    """The pixels that all models share, normalised as this one was trained on them, where it says how."""
    if not _says_how(model):
        return shared
    own = model.preprocess
    return replace(shared, mean=look.mean or own.mean, std=look.std or own.std)
