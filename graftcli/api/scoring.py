"""Networks scored on a folder of images: how often they are right, how often they answer as their teacher does."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graftcli import images as pictures
from graftcli.api.loading import network_of
from graftcli.api.onnx_models import OnnxModel, is_onnx, onnx_model
from graftcli.environment.devices import device_named
from graftcli.errors import PairError, UsageError
from graftcli.images import labels as naming
from graftcli.images.pixels import Fit, centre
from graftcli.measure import Accuracy, Likeness, accuracy, likeness, logits
from graftcli.measure.ladder import answers
from graftcli.nets.network import Network, Preprocess
from graftcli.nets.plan import count_parameters
from graftcli.store.written import plain
from graftcli.students.make import maker
from graftcli.students.wanted import is_wanted, looks_at_images, wanted

Model = Network | OnnxModel


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
class Evaluation:
    images: int
    broken: tuple[str, ...]
    rule: str | None  # how folder names became classes
    fit: Fit
    models: tuple[Scored, ...]


@dataclass(frozen=True)
class Scoring:
    """Images that networks are scored on, with what a teacher says of them."""

    images: pictures.Images
    labels: naming.Labels | None
    fit: Fit
    look: Look
    device: torch.device
    batch: int
    says: Tensor | None = None

    def beside(self, teacher: Model) -> "Scoring":
        """The same images with what this teacher says of them."""
        return replace(self, says=self._answers(teacher))

    def score(self, model: Model) -> Scored:
        given = self._answers(model)
        right = accuracy(given, self.labels.indices) if self.labels is not None else None
        like = likeness(given, self.says) if self.says is not None else None
        count = model.rung.params if isinstance(model, OnnxModel) else count_parameters(model.module)
        return Scored(model.name, model.source, count, right, like)

    def _answers(self, model: Model) -> Tensor:
        fit = fit_of(model, self.fit, self.look)
        if isinstance(model, OnnxModel):
            return answers(model.rung, centre(self.images.pixels, fit), fit)
        return logits(model.module, self.images.pixels, fit, self.device, self.batch)


def _says_how(model: Model) -> bool:
    """Whether a model says itself how images are normalised; a user's own code mostly does not."""
    return not model.mute if isinstance(model, OnnxModel) else model.source not in ("file", "package")


def scoring_on(
    images: str | Path,
    model: Model,
    look: Look,
    *,
    classes: str | Path | None = None,
    batch: int = 128,
    jobs: int | None = None,
    device: str = "auto",
) -> Scoring:
    """A folder's images as the model wants them, with their labels where they lie in class folders."""
    fit = fit_for(model, look)
    loaded = pictures.load(Path(images), fit, jobs=jobs)
    return Scoring(loaded, labels_of(images, loaded, model, classes), fit, look, device_named(device), batch)


def labels_of(
    images: str | Path, loaded: pictures.Images, model: Model, classes: str | Path | None
) -> naming.Labels | None:
    """What the class folders of the images say, in the order of the model's classes."""
    called = model.called if isinstance(model, OnnxModel) else ()
    return naming.read(Path(images), loaded.names, model.num_classes, Path(classes) if classes else None, called)


def fit_for(network: Model, look: Look, *, whole: bool = False) -> Fit:
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
        squash=own.squash,
    )


def fit_of(model: Model, shared: Fit, look: Look) -> Fit:
    """The pixels that all models share, normalised as this one was trained on them, where it says how."""
    if not _says_how(model):
        return shared
    own = model.preprocess
    return replace(shared, mean=look.mean or own.mean, std=look.std or own.std)


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
    """Each model's score; all of them see the same pixels, cropped as the first one wants them.

    Each is given its own mean and std; a user's own code, that of the first.

    `building` is what `build` takes: num_classes, in_chans, ema, unsafe.
    """
    look = look or Look()
    if checkpoint is not None and len(models) > 1:
        several = f"--checkpoint is one file of weights, and {len(models)} models are named."
        raise UsageError(several, "Score the one that it belongs to by itself, or name folders that graftcli wrote.")

    def named(
        spec: str, weights: str | Path | None, role: str, size: tuple[int, int] | None = look.img_size, **more: Any
    ) -> Model:
        if is_onnx(spec):
            if weights is not None:
                raise UsageError(f"`{spec}` holds its own weights; {weights} is another file of them.", "Name one.")
            return onnx_model(Path(spec), size)
        return network_of(spec, checkpoint=weights, img_size=size, role=role, **building, **more)

    derived = any(map(is_wanted, models))  # of the teacher, which is then there before them
    master = named(teacher, teacher_checkpoint, "teacher") if teacher is not None and derived else None
    found = [named(spec, checkpoint, "model", **(_made_of(master, spec) if is_wanted(spec) else {})) for spec in models]
    _check_alike(found)
    scoring = scoring_on(images, found[0], look, classes=classes, batch=batch, jobs=jobs, device=device)
    if teacher is None and scoring.labels is None:
        said = f"`{images}` has no class folders, and no teacher is named: there is nothing to score by."
        raise UsageError(said, "Give images in class folders, or a teacher to agree with: --teacher.")
    if teacher is not None:
        _, height, width = found[0].input_size
        master = master or named(teacher, teacher_checkpoint, "teacher", (height, width))
        _check_alike([*found, master])
        scoring = scoring.beside(master)
    broken = tuple(f"{one.name}: {one.reason}" for one in scoring.images.broken)
    rule = scoring.labels.rule if scoring.labels is not None else None
    scored = tuple(scoring.score(model) for model in found)
    return Evaluation(len(scoring.images.pixels), broken, rule, scoring.fit, scored)


def _made_of(teacher: Model | None, spec: str) -> dict[str, Any]:
    """What makes a student of the teacher, as it is before anything is trained."""
    if teacher is None:
        raise UsageError(f"`{spec}` is made from a teacher, and none is named.", "Name a network with --teacher.")
    if isinstance(teacher, OnnxModel):
        found = f"`{spec}` is made of a teacher's layers, and `{teacher.name}` is an ONNX file, which holds none."
        raise UsageError(found, "Name the network that the file was made of with --teacher.")
    if looks_at_images(wanted(spec)):
        found = f"`{spec}` is made by looking at a run's images; here are only those to be scored on."
        raise UsageError(found, "Score the folder of a run, or a student that needs no images, as prune:l1=0.3.")
    return {"like": teacher, "derive": maker()}


def _check_alike(models: Sequence[Model]) -> None:
    """All of them see the same images and answer with the same classes."""
    first = models[0]
    for other in models[1:]:
        for word, ours, theirs in (
            ("classes", first.num_classes, other.num_classes),
            ("input channels", first.input_size[0], other.input_size[0]),
        ):
            if ours != theirs:
                said = f"`{first.name}` has {ours:,} {word}, `{other.name}` has {theirs:,}."
                raise PairError(said, "Score them one by one, or give --num-classes and --in-chans.")
        own, others = ("x".join(map(str, one.input_size[1:])) for one in (first, other))
        if own != others:
            said = f"`{first.name}` is for images of {own}, `{other.name}` for images of {others}."
            raise PairError(said, "Score them one by one, or all at one size with --img-size.")


def evaluation_json(found: Evaluation) -> dict[str, Any]:
    document: dict[str, Any] = plain(asdict(found))
    return document
