"""`graftcli.evaluate`: score models on a folder of images, and compare them with a teacher."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypedDict, Unpack

from graftcli.errors import GraftError, PairError, UsageError
from graftcli.events import Listener, Warned
from graftcli.models.loading.build import Derive, NetworkOptions
from graftcli.models.loading.model_spec import path_of
from graftcli.models.network import Network
from graftcli.runs.config import RunConfig
from graftcli.runs.input_size import shared_size, small_images
from graftcli.runs.loading import network_of, specs_of
from graftcli.runs.onnx_models import OnnxModel, is_onnx, onnx_model
from graftcli.runs.recorded import config_with_teacher, recorded_teacher
from graftcli.runs.repair import repair
from graftcli.runs.scoring import (
    Evaluation,
    Model,
    PreprocessOptions,
    at_chance,
    build_options,
    load_scoring_images,
    preprocess_options,
)
from graftcli.store.atomic import plain
from graftcli.students.make import student_maker
from graftcli.students.spec import is_derived_spec, parse_spec


def evaluate(
    models: str | Path | Sequence[str | Path],
    images: str | Path,
    *,
    teacher: str | None = None,
    checkpoint: str | Path | None = None,
    teacher_checkpoint: str | Path | None = None,
    classes: str | Path | None = None,
    batch: int = 128,
    jobs: int | None = None,
    device: str = "auto",
    img_size: int | tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    crop_pct: float | None = None,
    interpolation: str | None = None,
    num_classes: int | None = None,
    in_chans: int | None = None,
    ema: bool | None = None,
    unsafe_load: bool = False,
    trust_code: bool = False,
    listen: Listener = lambda _: None,
) -> Evaluation:
    """Score networks on a folder of images: accuracy if it has class folders, and agreement with a teacher.

    All networks get the same pixels, cropped as the first one requires and normalised with their own mean and std.

    Parameters:
        models: Runs, model specs, ONNX files, or students derived from the teacher, such as ``"prune:l1=0.3"``.
        images: A folder, .zip, .tar, .parquet, .arrow or .list of images, with one folder per class for accuracy.
        teacher: Network to agree with. Default: the teacher of the run, with the run's weights and preprocessing.
        checkpoint: Weights file, if `models` is a single model.
        teacher_checkpoint: Weights file of the teacher.
        classes: File with the class names in order. Default: from the folder names.
        batch: Images per batch.
        jobs: Threads that decode images. Default: one per core, at most 16.
        device: ``"cpu"``, ``"cuda"``, ``"mps"`` or ``"auto"``.
        img_size: Input size. Default: the network's, else that of all images.
        mean: Per-channel mean of the input. Default: the network's.
        std: Per-channel standard deviation of the input. Default: the network's.
        crop_pct: Share of the image that the centre crop keeps. Default: the network's.
        interpolation: Resampling of the resize, such as ``"bicubic"``. Default: the network's.
        num_classes: Number of classes. Default: from the weights, else from the network.
        in_chans: Number of input channels. Default: from the weights, else from the network.
        ema: Take the averaged weights of a checkpoint (True) or the raw ones (False). Default: averaged if present.
        unsafe_load: Unpickle checkpoints that hold more than tensors; this runs code from the file.
        trust_code: Run Python files that a saved network names, even if they changed.
        listen: Called with every event; see ``graftcli.events``.

    Returns:
        The score of each model, with 95% intervals.

    Raises:
        UsageError: Nothing can be scored: no class folders and no teacher.
        ImagesError: The images are missing or cannot be read.
        CheckpointError: A weights file is missing, damaged or of another network.

    Example:
        >>> graftcli.evaluate(["runs/small"], "val").models[0].accuracy  # doctest: +SKIP
    """
    models = specs_of(models)
    options = preprocess_options(img_size, mean, std, crop_pct, interpolation)
    build_args = build_options(num_classes, in_chans, ema, unsafe_load, trust_code)
    if checkpoint is not None and len(models) > 1:
        several = f"--checkpoint is the weights of one model, and {len(models)} models are given."
        raise UsageError(several, "Score one model at a time, or give run folders, which hold their weights.")

    recorded = config_with_teacher(models, teacher, teacher_checkpoint, trust_code=trust_code, listen=listen)
    loader = _Loader(models, checkpoint, teacher, teacher_checkpoint, recorded, build_args, listen)
    named_size, (loaded, teacher_model) = options.img_size, loader.models_at(options.img_size)
    if (size := shared_size(loaded, images, listen, jobs=jobs)) is not None:
        options, (loaded, teacher_model) = replace(options, img_size=size), loader.models_at(size)
    _check_compatible(loaded)
    scoring = load_scoring_images(images, loaded[0], options, classes=classes, batch=batch, jobs=jobs, device=device)
    for hint in small_images(scoring.images.short_side, scoring.preprocess, named_size):
        listen(Warned(hint))
    teacher_model = teacher_model or loader.teacher_at(_size_of(loaded[0]), needed=scoring.labels is None)
    if teacher_model is not None:
        _check_compatible([*loaded, teacher_model])
        scoring = scoring.with_teacher(_warn_if_random(teacher_model, listen), _teacher_options(recorded, options))
    elif scoring.labels is None:
        found = (
            f"`{images}` has no class folders, and no teacher is given: neither accuracy nor agreement can be measured."
        )
        raise UsageError(found, "Give images in class folders, or a teacher with --teacher.")
    broken = tuple(f"{image.name}: {image.reason}" for image in scoring.images.broken)
    rule = scoring.labels.rule if scoring.labels is not None else None
    scored = tuple(scoring.score(model) for model in loaded)
    for score, model in zip(scored, loaded, strict=True):
        for hint in at_chance(score, model):
            listen(Warned(hint))
    teacher_label = f"{teacher_model.name}: {_weights_of(teacher_model)}" if teacher_model is not None else None
    return Evaluation(len(scoring.images.pixels), broken, rule, scoring.preprocess, scored, teacher_label)


class _DeriveOptions(TypedDict, total=False):
    """The keywords of `build` for a student derived from the teacher."""

    like: Network
    derive: Derive


@dataclass(frozen=True)
class _Loader:
    """Loads the models and their teacher, at a given input size or at their default size."""

    models: Sequence[str]
    checkpoint: str | Path | None
    teacher: str | None
    teacher_checkpoint: str | Path | None
    recorded: RunConfig | None  # of the run whose teacher is used
    build_args: NetworkOptions
    listen: Listener

    def models_at(self, size: tuple[int, int] | None) -> tuple[list[Model], Model | None]:
        """Load the models; if one of them is derived from the teacher, load the teacher first."""
        teacher = self.teacher_at(size, needed=True) if any(map(is_derived_spec, self.models)) else None
        specs = [
            (spec, _derive_args(teacher, spec) if is_derived_spec(spec) else _DeriveOptions()) for spec in self.models
        ]
        return [self._model(spec, self.checkpoint, "model", size, **args) for spec, args in specs], teacher

    def teacher_at(self, size: tuple[int, int] | None, *, needed: bool) -> Model | None:
        """Load the teacher, if there is one; the teacher of a run may be missing unless it is `needed`."""
        if self.recorded is not None:
            needed = needed or self.teacher is not None or self.teacher_checkpoint is not None
            build_args: NetworkOptions = {**self.build_args, "img_size": size}
            return _load_recorded_teacher(self.recorded, build_args, self.listen, needed=needed)
        return None if self.teacher is None else self._model(self.teacher, self.teacher_checkpoint, "teacher", size)

    def _model(
        self,
        spec: str,
        weights: str | Path | None,
        role: str,
        size: tuple[int, int] | None,
        **derive_args: Unpack[_DeriveOptions],
    ) -> Model:
        if is_onnx(spec):
            if weights is not None:
                found = f"`{spec}` already contains its weights, but the checkpoint {weights} is given too."
                raise UsageError(found, "Leave out the checkpoint.")
            return onnx_model(Path(spec), size)
        if weights is None and (path := path_of(spec)) is not None:
            repair(path, trust_code=self.build_args["trust_code"], listen=self.listen)
        return network_of(spec, checkpoint=weights, img_size=size, role=role, **self.build_args, **derive_args)


def _teacher_options(recorded: RunConfig | None, options: PreprocessOptions) -> PreprocessOptions:
    """Return the preprocessing options of the teacher: the user's, else those of the run that it comes from."""
    if recorded is None:
        return options
    return replace(options, mean=options.mean or recorded.look.mean, std=options.std or recorded.look.std)


def _weights_of(model: Model) -> str:
    return "ONNX" if isinstance(model, OnnxModel) else str(model.weights)


def _load_recorded_teacher(
    config: RunConfig, build_args: NetworkOptions, listen: Listener, *, needed: bool
) -> Network | None:
    """Build the teacher of a run; if that fails and it is not `needed`, warn that agreement is not measured."""
    try:
        return recorded_teacher(config, build_args)
    except GraftError as error:
        if needed:
            raise
        warning = f"agreement is not measured, because the teacher of the run cannot be loaded: {error.message}"
        listen(Warned(f"{warning} {error.fix}" if error.fix else warning))
        return None


def _warn_if_random(teacher: Model, listen: Listener) -> Model:
    """Return the teacher, after a warning if its weights are random."""
    if isinstance(teacher, Network) and teacher.weights.is_random:
        warning = f"teacher {teacher.name} has random weights: agreement with it is meaningless."
        listen(Warned(f"{warning} Give its weights with --teacher-checkpoint."))
    return teacher


def _size_of(model: Model) -> tuple[int, int]:
    _, height, width = model.input_size
    return height, width


def _derive_args(teacher: Model | None, spec: str) -> _DeriveOptions:
    """Return the keywords of `build` for a student derived from the teacher, before training."""
    if teacher is None:
        raise UsageError(f"`{spec}` is derived from a teacher, but no teacher is given.", "Give one with --teacher.")
    if isinstance(teacher, OnnxModel):
        found = f"`{spec}` is derived from the layers of a teacher, but the teacher `{teacher.name}` is an ONNX file."
        raise UsageError(found, "Use --teacher to give the PyTorch network that this file was exported from.")
    if parse_spec(spec).needs_images:
        found = f"`{spec}` is derived with training images, but `eval` has only test images."
        raise UsageError(found, "Score the folder of a run, or a student that needs no images, such as prune:l1=0.3.")
    return {"like": teacher, "derive": student_maker()}


def _check_compatible(models: Sequence[Model]) -> None:
    """Raise unless all models have the same classes and input size."""
    first = models[0]
    for other in models[1:]:
        for noun, value, other_value in (
            ("classes", first.num_classes, other.num_classes),
            ("input channels", first.input_size[0], other.input_size[0]),
        ):
            if value != other_value:
                found = f"`{first.name}` has {value:,} {noun}, `{other.name}` has {other_value:,}."
                raise PairError(found, "Score them separately, or give --num-classes and --in-chans.")
        size, other_size = ("x".join(map(str, model.input_size[1:])) for model in (first, other))
        if size != other_size:
            found = f"`{first.name}` has input size {size}, `{other.name}` has {other_size}."
            raise PairError(found, "Score them separately, or all at one size with --img-size.")


def evaluation_json(evaluation: Evaluation) -> dict[str, object]:
    """The scores as JSON, as with `--json`."""
    document: dict[str, object] = plain(asdict(evaluation))
    return document
