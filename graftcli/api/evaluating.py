"""`eval`: networks scored on a folder of images, beside their teacher."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from graftcli.errors import GraftError, PairError, UsageError
from graftcli.events import Listener, Warned
from graftcli.models.loading.model_spec import path_of
from graftcli.models.network import Network
from graftcli.runs.config import RunConfig
from graftcli.runs.loading import network_of
from graftcli.runs.onnx_models import OnnxModel, is_onnx, onnx_model
from graftcli.runs.recorded import asked_for, recorded_teacher
from graftcli.runs.repair import repaired
from graftcli.runs.scoring import Evaluation, Model, PreprocessOptions, scoring_on
from graftcli.store.atomic import plain
from graftcli.students.make import maker
from graftcli.students.spec import is_wanted, looks_at_images, wanted


def evaluate(
    models: Sequence[str],
    images: str | Path,
    *,
    teacher: str | None = None,
    checkpoint: str | Path | None = None,
    teacher_checkpoint: str | Path | None = None,
    classes: str | Path | None = None,
    look: PreprocessOptions | None = None,
    batch: int = 128,
    jobs: int | None = None,
    device: str = "auto",
    listen: Listener = lambda _: None,
    **building: Any,
) -> Evaluation:
    """Each model's score; all of them see the same pixels, cropped as the first one wants them.

    Each is given its own mean and std; a user's own code, that of the first. Without a `teacher`, that of the run
    that the models came out of, with the run's weights and preprocessing.

    `building` is what `build` takes: num_classes, in_chans, ema, unsafe,
    trust_code.
    """
    look = look or PreprocessOptions()
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
        if weights is None and (path := path_of(spec)) is not None:
            repaired(path, trust_code=bool(building.get("trust_code")), listen=listen)
        return network_of(spec, checkpoint=weights, img_size=size, role=role, **building, **more)

    trust, derived = bool(building.get("trust_code")), any(map(is_wanted, models))
    recorded = asked_for(models, teacher, teacher_checkpoint, trust_code=trust, listen=listen)

    def master_at(size: tuple[int, int] | None, *, needed: bool) -> Model | None:
        if recorded is not None:
            needed = needed or teacher is not None or teacher_checkpoint is not None
            return _of_record(recorded, {**building, "img_size": size}, listen, needed=needed)
        return named(teacher, teacher_checkpoint, "teacher", size) if teacher is not None else None

    master = master_at(look.img_size, needed=True) if derived else None  # before what is made of it
    found = [named(spec, checkpoint, "model", **(_made_of(master, spec) if is_wanted(spec) else {})) for spec in models]
    _check_alike(found)
    scoring = scoring_on(images, found[0], look, classes=classes, batch=batch, jobs=jobs, device=device)
    master = master or master_at(_size_of(found[0]), needed=scoring.labels is None)
    if master is not None:
        _check_alike([*found, master])
        scoring = scoring.beside(_warned_of(master, listen), _shown(recorded, look))
    elif scoring.labels is None:
        said = f"`{images}` has no class folders, and no teacher is named: there is nothing to score by."
        raise UsageError(said, "Give images in class folders, or a teacher to agree with: --teacher.")
    broken = tuple(f"{one.name}: {one.reason}" for one in scoring.images.broken)
    rule = scoring.labels.rule if scoring.labels is not None else None
    scored = tuple(scoring.score(model) for model in found)
    beside = f"{master.name}: {_weights_of(master)}" if master is not None else None
    return Evaluation(len(scoring.images.pixels), broken, rule, scoring.preprocess, scored, beside)


def _shown(recorded: RunConfig | None, look: PreprocessOptions) -> PreprocessOptions:
    """How the teacher's images are normalised: as the user says, else as in the run that names it."""
    if recorded is None:
        return look
    return replace(look, mean=look.mean or recorded.look.mean, std=look.std or recorded.look.std)


def _weights_of(model: Model) -> str:
    return "ONNX" if isinstance(model, OnnxModel) else model.weights


def _of_record(asked: RunConfig, building: dict[str, Any], listen: Listener, *, needed: bool) -> Network | None:
    """The teacher that the record of a run names; without one that is not `needed` only its agreement is missing."""
    try:
        return recorded_teacher(asked, building)
    except GraftError as fault:
        if needed:
            raise
        said = f"agreement is not measured, for the run's teacher could not be loaded: {fault.found}"
        listen(Warned(f"{said} {fault.mend}" if fault.mend else said))
        return None


def _warned_of(teacher: Model, listen: Listener) -> Model:
    """Return the teacher, after a warning if its weights are random."""
    if isinstance(teacher, Network) and teacher.weights == "random":
        said = f"teacher {teacher.name} has random weights: agreement with it says nothing."
        listen(Warned(f"{said} Give its weights with --teacher-checkpoint."))
    return teacher


def _size_of(model: Model) -> tuple[int, int]:
    _, height, width = model.input_size
    return height, width


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
        for word, one, two in (
            ("classes", first.num_classes, other.num_classes),
            ("input channels", first.input_size[0], other.input_size[0]),
        ):
            if one != two:
                said = f"`{first.name}` has {one:,} {word}, `{other.name}` has {two:,}."
                raise PairError(said, "Score them one by one, or give --num-classes and --in-chans.")
        own, others = ("x".join(map(str, model.input_size[1:])) for model in (first, other))
        if own != others:
            said = f"`{first.name}` is for images of {own}, `{other.name}` for images of {others}."
            raise PairError(said, "Score them one by one, or all at one size with --img-size.")


def evaluation_json(found: Evaluation) -> dict[str, Any]:
    document: dict[str, Any] = plain(asdict(found))
    return document
