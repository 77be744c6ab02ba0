"""`bench`: runs, specs and ONNX files -> the ladder, and bench.json in each run's folder."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graftcli import images as pictures
from graftcli.api.reporting import report
from graftcli.benching.models import NamedModel, first_of, named, rungs
from graftcli.environment.machine import cpu, usable_cores
from graftcli.errors import GraftError, ImagesError
from graftcli.events import BatchTimed, FileSaved, ImagesDecoded, Listener, Warned
from graftcli.images.pixels import Preprocess
from graftcli.measure.benchmark import SECONDS, BenchEntry, ladder, ladder_json
from graftcli.models.loading.model_spec import from_anywhere, path_of
from graftcli.models.network import Network
from graftcli.report.run_view import BenchView
from graftcli.report.run_view import ladder as known_of
from graftcli.runs.config import RunConfig, absolute, asked_of
from graftcli.runs.onnx_models import OnnxModel
from graftcli.runs.repair import repaired
from graftcli.runs.scoring import Model, PreprocessOptions, labels_of, preprocess_for
from graftcli.store import BENCH_FILE
from graftcli.store.atomic import write_json
from graftcli.store.run_file import RUN_FILE

_SHORTLY, _FEW = 1.0, 256  # seconds for each rung and images, where the ladder is no more than a glance


@dataclass(frozen=True)
class Bench:
    """`agreement` of each rung is with the first one's answers on `images` images of `source`."""

    cpu: str
    threads: int
    batch: int
    source: str | None  # None: noise, and nothing but time was measured
    images: int
    rule: str | None  # how folder names became classes
    rungs: tuple[BenchEntry, ...]


@dataclass(frozen=True)
class _Pictures:
    pixels: Tensor
    source: str | None
    labels: Tensor | None = None
    rule: str | None = None


def bench(
    models: Sequence[str],
    *,
    teacher: str | None = None,
    checkpoint: str | Path | None = None,
    teacher_checkpoint: str | Path | None = None,
    images: str | Path | None = None,
    classes: str | Path | None = None,
    look: PreprocessOptions | None = None,
    batch: int = 32,
    threads: int | None = None,
    seconds: float = SECONDS,
    most: int | None = None,
    jobs: int | None = None,
    glance: bool = False,
    listen: Listener = lambda _: None,
    **building: Any,
) -> Bench:
    """Runs, model specs and ONNX files, measured in turns on this machine's CPU, beside the first of them: the teacher,
    where one is named or a run has one. All see the same pixels, cut as the first network wants them; each is given its
    own mean and std, a user's own code that of the first.

    Of the images, `most` are looked at; a `glance` replaces no bench.json that saw more. `building` is what `build`
    takes: num_classes, in_chans, ema, unsafe,
    trust_code.
    """
    paths = {model: path_of(model) for model in models}
    trust = bool(building.get("trust_code"))
    found = {model: path for model, path in paths.items() if path and (path / RUN_FILE).is_file()}
    runs = {}
    for model, path in found.items():
        runs[model] = asked_of(repaired(path, trust_code=trust, listen=listen), trust_code=trust)
    said = look or PreprocessOptions()
    look = _over(
        said, next(iter(runs.values())).look if runs else PreprocessOptions()
    )  # of the first run, for what is shown
    weights = {"teacher": teacher_checkpoint, "model": checkpoint}
    every = list(named(models, runs, teacher, weights, {"img_size": look.img_size, **building}))
    first = first_of(every, look)
    for doubt in _doubts(every, first if images is not None else None, look):
        listen(Warned(doubt))
    preprocess, many = preprocess_for(first, look), threads or usable_cores()
    made, shown = (
        rungs(every, first, preprocess, said, many),
        _pictures(images, classes, runs, preprocess, first, most, jobs, listen),
    )
    measured = ladder(
        made,
        shown.pixels,
        preprocess,
        labels=shown.labels,
        compared=shown.source is not None,
        batch=batch,
        threads=many,
        seconds=seconds,
        told=lambda size, share: listen(BatchTimed(size, round(100 * share), 100)),
    )
    given = (from_anywhere(teacher), absolute(teacher_checkpoint)) if teacher else None
    _write(measured, every, runs, given, listen, glance=glance)
    count = len(shown.pixels) if shown.source is not None else 0
    return Bench(cpu().name, many, batch, shown.source, count, shown.rule, measured)


def after_export(model: str, file: str, *, listen: Listener = lambda _: None, **settings: Any) -> Bench | None:
    """The ladder of a model with a file just written of it, measured shortly; `settings` are those of `bench`.

    The file is whole and checked: what keeps the ladder from being measured is told, and takes nothing back.
    """
    try:
        return bench([model, file], seconds=_SHORTLY, most=_FEW, glance=True, listen=listen, **settings)
    except GraftError as fault:
        listen(Warned(f"the ladder was not measured: {fault.found}"))
        return None


def _doubts(every: Sequence[NamedModel], first: Model | None, look: PreprocessOptions) -> Iterator[str]:
    """Why answers may mean nothing; `first` is what says how given images are normalised."""
    for one in every:
        if isinstance(one.what, Network) and one.what.weights == "random":
            yield f"{one.name} has random weights: its answers mean nothing"
    if isinstance(first, OnnxModel) and first.mute and None in (look.mean, look.std):
        yield f"{first.name} does not say how images are normalised; ImageNet's way is taken: --mean and --std"


def _over(first: PreprocessOptions, second: PreprocessOptions) -> PreprocessOptions:
    """What the first says, and the second where it says nothing."""
    said = {f.name: getattr(first, f.name) for f in fields(PreprocessOptions)}
    return replace(second, **{name: value for name, value in said.items() if value is not None})


# -- what it is measured on ---------------------------------------------------------------------------------------


def _pictures(
    images: str | Path | None,
    classes: str | Path | None,
    runs: dict[str, RunConfig],
    preprocess: Preprocess,
    first: Model,
    most: int | None,
    jobs: int | None,
    listen: Listener,
) -> _Pictures:
    """The images that were given, with their labels; else those of the first run; else noise."""

    def found_in(source: Path) -> pictures.Images:
        def tell(done: int, total: int) -> None:
            listen(ImagesDecoded(done, total))

        return pictures.load(source, preprocess, jobs=jobs, most=most, on_progress=tell)

    if images is not None:
        found = found_in(Path(images))
        labels = labels_of(images, found, first, classes)
        known = (labels.indices, labels.rule) if labels is not None else (None, None)
        return _Pictures(found.pixels, str(images), *known)
    for asked in list(runs.values())[:1]:
        own = asked.val_images or asked.images
        try:
            return _Pictures(found_in(Path(own)).pixels, own)
        except ImagesError as gone:
            listen(Warned(f"the run's images are not there any more, so agreement is not measured: {gone.found}"))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (8, preprocess.channels, *preprocess.size), dtype=torch.uint8, generator=generator)
    return _Pictures(noise, None)


def _write(
    measured: Sequence[BenchEntry],
    every: Sequence[NamedModel],
    runs: dict[str, RunConfig],
    given: tuple[str, str | None] | None,
    listen: Listener,
    *,
    glance: bool,
) -> None:
    """Each run's folder gets its own rungs and those of no run, if the teacher, `given` or the first one's, is its."""
    teachers = {Path(run): (asked.networks.teacher, asked.networks.teacher_checkpoint) for run, asked in runs.items()}
    for folder, its in teachers.items():
        if its != (given or next(iter(teachers.values()))):
            listen(Warned(f"{folder} was measured beside another teacher than its own: it gets no {BENCH_FILE}"))
            continue
        if glance and _tells_more(known_of(folder / BENCH_FILE), measured):
            kept = f"{folder / BENCH_FILE} tells of more images, or of labels, and stays"
            listen(Warned(f"{kept}; `graftcli bench` replaces it"))
            continue
        own = [found for found, one in zip(measured, every, strict=True) if one.run in (None, folder)]
        write_json(folder / BENCH_FILE, ladder_json(own))
        listen(FileSaved(str(folder / BENCH_FILE)))
        report([folder], listen=listen)  # which shows the ladder


def _tells_more(known: Sequence[BenchView], measured: Sequence[BenchEntry]) -> bool:
    """Whether an earlier ladder was measured on more images, or knows what was right where the new one does not."""
    labelled = any(rung.top1 is not None for rung in known) and measured[0].top1 is None
    return labelled or any(rung.images > measured[0].images for rung in known)


def bench_json(found: Bench) -> dict[str, Any]:
    return asdict(found)
