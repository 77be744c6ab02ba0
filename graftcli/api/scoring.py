"""Networks scored on a folder of images: how often they are right, how often they answer as their teacher does."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graftcli import images as pictures
from graftcli.api.loading import network_of
from graftcli.environment.devices import device_named
from graftcli.environment.machine import usable_cores
from graftcli.errors import PairError, UsageError
from graftcli.images import labels as naming
from graftcli.images.pixels import Fit, centre
from graftcli.measure import Accuracy, Likeness, accuracy, likeness, logits, parameters
from graftcli.measure.ladder import answers, of_file
from graftcli.measure.onnx_facts import read_onnx
from graftcli.nets.network import IMAGENET, Network, Preprocess

_FALLBACK = (224, 224)  # the images of a file that leaves their size open, where nothing else says it


@dataclass(frozen=True)
class Look:
    """What a user says of how images become the network's input; None: as the network's own settings have it."""

    img_size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop_pct: float | None = None
    interpolation: str | None = None


@dataclass(frozen=True)
class Scored:
    name: str
    source: str
    parameters: int
    accuracy: Accuracy | None  # None where the folder has no class folders
    likeness: Likeness | None  # None without a teacher


@dataclass(frozen=True)
class Model:
    """What is scored: a network that PyTorch runs, or an ONNX file that onnxruntime runs."""

    name: str
    source: str
    parameters: int
    classes: int
    called: tuple[str, ...]  # its classes, where it says so
    fit: Fit
    says: Callable[[Tensor, Fit], Tensor]  # its answers to pixels that were made ready so


@dataclass(frozen=True)
class Evaluation:
    images: int
    broken: tuple[str, ...]
    rule: str | None  # how folder names became classes
    fit: Fit
    models: tuple[Scored, ...]


@dataclass(frozen=True)
class Scoring:
    """Images that models are scored on, made ready as the first of them wants, with what a teacher says of them."""

    images: pictures.Images
    labels: naming.Labels | None
    fit: Fit
    said: Tensor | None = None

    def beside(self, teacher: Model) -> "Scoring":
        """The same images with what this teacher says of them."""
        return replace(self, said=teacher.says(self.images.pixels, self.fit))

    def score(self, model: Model) -> Scored:
        given = model.says(self.images.pixels, self.fit)
        right = accuracy(given, self.labels.indices) if self.labels is not None else None
        like = likeness(given, self.said) if self.said is not None else None
        return Scored(model.name, model.source, model.parameters, right, like)


def scoring_on(
    images: str | Path, first: Model, *, classes: str | Path | None = None, jobs: int | None = None
) -> Scoring:
    """A folder's images as a model wants them, with their labels where they lie in class folders."""
    loaded = pictures.load(Path(images), first.fit, jobs=jobs)
    names = Path(classes) if classes else None
    labels = naming.read(Path(images), loaded.names, first.classes, names, first.called)
    return Scoring(loaded, labels, first.fit)


def fit_for(network: Network, look: Look, *, whole: bool = False) -> Fit:
    """How images are made ready for a network: its own settings, and what the user says instead."""
    own: Preprocess = network.preprocess
    channels, height, width = network.input_size
    return Fit(
        size=look.img_size or (height, width),
        channels=channels,
        mean=look.mean or own.mean,
        std=look.std or own.std,
        crop_pct=look.crop_pct or own.crop_pct,
        interpolation=look.interpolation or own.interpolation,
        whole=whole,
    )


def fit_for_file(file: Path, look: Look) -> Fit:
    """How images are made ready for an ONNX file: as it says itself, else as ImageNet's; and what the user says."""
    told = read_onnx(file).told
    size = look.img_size or told.size or _FALLBACK
    channels, height, width = of_file(file, 1, size=(len(told.mean or IMAGENET.mean), *size)).size
    own = IMAGENET.for_channels(channels)
    alike = told.mean is not None and told.std is not None and len(told.mean) == len(told.std) == channels
    return Fit(
        size=look.img_size or (height, width),
        channels=channels,
        mean=look.mean or (told.mean if alike and told.mean else own.mean),
        std=look.std or (told.std if alike and told.std else own.std),
        crop_pct=look.crop_pct or told.crop_pct or own.crop_pct,
        interpolation=look.interpolation or told.interpolation or own.interpolation,
    )


def classes_of_file(file: Path, fit: Fit) -> int:
    """How many classes an ONNX file knows: it is asked, for not every file says so."""
    image = torch.zeros(1, fit.channels, *fit.size, dtype=torch.uint8)
    return answers(of_file(file, 1, size=(fit.channels, *fit.size)), image, fit).shape[1]


def evaluate(
    models: Sequence[str],
    images: str | Path,
    *,
    teacher: str | None = None,
    checkpoint: str | Path | None = None,
    teacher_checkpoint: str | Path | None = None,
    classes: str | Path | None = None,
    look: Look | None = None,
    batch: int = 128,
    jobs: int | None = None,
    device: str = "auto",
    **building: Any,
) -> Evaluation:
    """Each model's score; all of them see the same pixels, made ready as the first one wants them.

    `building` is what `build` takes: num_classes, in_chans, ema, unsafe.
    """
    look, where = look or Look(), device_named(device)
    if checkpoint is not None and len(models) > 1:
        found = f"--checkpoint is one file of weights, and {len(models)} models are named."
        raise UsageError(found, "Score the one that it belongs to by itself, or name folders that graftcli wrote.")

    def asked(spec: str, weights: str | Path | None, role: str) -> Model:
        if Path(spec).suffix == ".onnx" and weights is None:
            return _of_file(Path(spec), look)
        network = network_of(spec, checkpoint=weights, img_size=look.img_size, role=role, **building)
        return model_of(network, look, where, batch)

    named = [asked(spec, checkpoint, "model") for spec in models]
    master = asked(teacher, teacher_checkpoint, "teacher") if teacher is not None else None
    _check_alike([*named, master] if master is not None else named)
    scoring = scoring_on(images, named[0], classes=classes, jobs=jobs)
    scoring = scoring if master is None else scoring.beside(master)
    broken = tuple(f"{one.name}: {one.reason}" for one in scoring.images.broken)
    rule = scoring.labels.rule if scoring.labels is not None else None
    scored = tuple(scoring.score(model) for model in named)
    return Evaluation(len(scoring.images.pixels), broken, rule, scoring.fit, scored)


def model_of(network: Network, look: Look, where: torch.device, batch: int = 128) -> Model:
    """A network, with its own settings and what the user says instead."""

    def says(pixels: Tensor, fit: Fit) -> Tensor:
        return logits(network.module, pixels, fit, where, batch)

    many, fit = parameters(network.module), fit_for(network, look)
    return Model(network.name, network.source, many, network.num_classes, (), fit, says)


def _of_file(file: Path, look: Look) -> Model:
    fit = fit_for_file(file, look)
    rung = of_file(file, usable_cores(), size=(fit.channels, *fit.size))

    def says(pixels: Tensor, fit: Fit) -> Tensor:
        return answers(rung, centre(pixels, fit), fit)

    called = read_onnx(file).told.classes
    return Model(file.name, "onnx", rung.params, classes_of_file(file, fit), called, fit, says)


def _check_alike(models: Sequence[Model]) -> None:
    """All of them see the same images and answer with the same classes."""
    first = models[0]
    for other in models[1:]:
        for word, ours, theirs in (
            ("classes", first.classes, other.classes),
            ("input channels", first.fit.channels, other.fit.channels),
        ):
            if ours != theirs:
                found = f"`{first.name}` has {ours:,} {word}, `{other.name}` has {theirs:,}."
                raise PairError(found, "Score them one by one, or give --num-classes and --in-chans.")


def evaluation_json(found: Evaluation) -> dict[str, Any]:
    return asdict(found)
