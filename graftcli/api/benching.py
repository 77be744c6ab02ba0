"""`bench`: runs, specs and ONNX files -> the ladder, and bench.json in each run's folder."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graftcli import images as pictures
from graftcli.api.asked import Asked, absolute, asked_of
from graftcli.api.loading import network_of
from graftcli.api.onnx_models import onnx_model
from graftcli.api.reporting import report
from graftcli.api.scoring import Look, fit_for
from graftcli.environment.machine import cpu, usable_cores
from graftcli.errors import GraftError, ImagesError, UsageError
from graftcli.events import Decoded, Listener, Saved, Timed, Warned
from graftcli.images import labels as naming
from graftcli.images.pixels import Fit
from graftcli.measure.ladder import SECONDS, Measured, Rung, ladder, ladder_json, of_file, of_module
from graftcli.measure.onnx_facts import read_onnx
from graftcli.nets.grammar import from_anywhere, path_of
from graftcli.nets.network import Network
from graftcli.nets.origin import WEIGHTS_FILE
from graftcli.nets.spec import build
from graftcli.report.words import numbers
from graftcli.store import BENCH_FILE
from graftcli.store.runs import RUN_FILE, read_run
from graftcli.store.written import write_json

_PRECISIONS = ("fp32", "bf16", "fp16", "int8")
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
    rungs: tuple[Measured, ...]


@dataclass(frozen=True)
class _Named:
    """A rung before it is made: a module or a file, and the run's folder that it lies in."""

    name: str
    module: nn.Module | None = None
    network: Network | None = None  # what is known of the module, where it was named by a spec
    file: Path | None = None
    run: Path | None = None


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
    look: Look | None = None,
    batch: int = 32,
    threads: int | None = None,
    seconds: float = SECONDS,
    most: int | None = None,
    jobs: int | None = None,
    listen: Listener = lambda _: None,
    **building: Any,
) -> Bench:
    """Runs, model specs and ONNX files, measured in turns on this machine's CPU, beside the first of them: the teacher,
    where one is named or a run has one. All see the same pixels, made ready as the first network wants them.

    Of the images, `most` are looked at. `building` is what `build` takes: num_classes, in_chans, ema, unsafe.
    """
    paths = {model: path_of(model) for model in models}
    runs = {model: asked_of(path) for model, path in paths.items() if path and (path / RUN_FILE).is_file()}
    look = _over(look or Look(), next(iter(runs.values())).look if runs else Look())
    weights = {"teacher": teacher_checkpoint, "model": checkpoint}
    named = list(_named(models, runs, teacher, weights, {"img_size": look.img_size, **building}))
    for one in named:
        if one.network is not None and one.network.weights == "random":
            listen(Warned(f"{one.name} has random weights: its answers mean nothing"))
    if images is not None and (mute := _mute(named, look)):
        listen(Warned(f"{mute} does not say how images are normalised; ImageNet's way is taken: --mean and --std"))
    fit, many = _fit(named, look), threads or usable_cores()
    rungs = _rungs(named, fit, many)
    shown = _pictures(images, classes, runs, fit, named, most, jobs, listen)
    measured = ladder(
        rungs,
        shown.pixels,
        fit,
        labels=shown.labels,
        compared=shown.source is not None,
        batch=batch,
        threads=many,
        seconds=seconds,
        told=lambda size, share: listen(Timed(size, round(100 * share), 100)),
    )
    _write(measured, named, runs, (from_anywhere(teacher), absolute(teacher_checkpoint)) if teacher else None, listen)
    count = len(shown.pixels) if shown.source is not None else 0
    return Bench(cpu().name, many, batch, shown.source, count, shown.rule, measured)


def after_export(model: str, file: str, *, listen: Listener = lambda _: None, **settings: Any) -> Bench | None:
    """The ladder of a model with a file just written of it, measured shortly; `settings` are those of `bench`.

    The file is whole and checked: what keeps the ladder from being measured is told, and takes nothing back.
    """
    try:
        return bench([model, file], seconds=_SHORTLY, most=_FEW, listen=listen, **settings)
    except GraftError as fault:
        listen(Warned(f"the ladder was not measured: {fault.found}"))
        return None


def _over(first: Look, second: Look) -> Look:
    """What the first says, and the second where it says nothing."""
    said = {f.name: getattr(first, f.name) for f in fields(Look)}
    return replace(second, **{name: value for name, value in said.items() if value is not None})


# -- what is measured ---------------------------------------------------------------------------------------------


def _named(
    models: Sequence[str],
    runs: dict[str, Asked],
    teacher: str | None,
    weights: dict[str, str | Path | None],
    building: dict[str, Any],
) -> Iterator[_Named]:
    """Every rung once, the teacher first, each under a name of its own."""
    found: list[_Named] = []
    if teacher is not None:
        network = build(teacher, checkpoint=weights["teacher"], role="teacher", **building)
        found.append(_Named(f"{network.name} (teacher)", network.module, network))
    elif runs:
        network = _teacher(next(iter(runs.values())), building)
        found.append(_Named(f"{network.name} (teacher)", network.module, network))
    for model in models:
        if model in runs:
            found += _of_run(Path(model), building, alone=len(runs) == 1)
        elif Path(model).suffix == ".onnx":
            found.append(_Named(Path(model).name, file=Path(model)))
        else:
            network = network_of(model, checkpoint=weights["model"], role="model", **building)
            found.append(_Named(network.name, network.module, network))
    seen: dict[str, int] = {}
    for one in {entry.file.resolve() if entry.file else object(): entry for entry in found}.values():
        seen[one.name] = seen.get(one.name, 0) + 1
        yield one if seen[one.name] == 1 else replace(one, name=f"{one.name} #{seen[one.name]}")


def _teacher(asked: Asked, building: dict[str, Any]) -> Network:
    networks = asked.networks
    own = {"num_classes": networks.num_classes, "in_chans": networks.in_chans, "ema": networks.ema}
    given = {key: value for key, value in building.items() if value not in (None, False)}
    settings = {**own, "unsafe": networks.unsafe_load, **given}
    return build(networks.teacher, checkpoint=networks.teacher_checkpoint, role="teacher", **settings)


def _of_run(folder: Path, building: dict[str, Any], *, alone: bool) -> Iterator[_Named]:
    """What came out of the run, and every ONNX file in the folder."""
    settings = read_run(folder)["settings"]
    whole = len(settings["blocks"]) == len(settings["cuts"]["student"]) + 1
    what = settings["student"]["name"] if whole else f"{numbers(settings['blocks'])} replaced"
    own = network_of(folder, img_size=building.get("img_size"), unsafe=bool(building.get("unsafe")))
    yield _Named(f"{what} (student)" if alone else f"{folder.name}: {what}", own.module, run=folder)
    for file in sorted(folder.glob("*.onnx"), key=_rank):
        yield _Named(file.name if alone else f"{folder.name}: {file.name}", file=file, run=folder)


def _rank(file: Path) -> tuple[int, str]:
    """Files from fp32 down to int8."""
    return (_PRECISIONS.index(read_onnx(file).precision), file.name)


def _fit(named: Sequence[_Named], look: Look) -> Fit:
    """How images are made ready: as the first network wants them, or the first file."""
    if network := next((one.network for one in named if one.network is not None), None):
        return fit_for(network, look)
    assert named[0].file is not None  # a run brings its teacher: without a network there are files
    return fit_for(onnx_model(named[0].file, look.img_size), look)


def _mute(named: Sequence[_Named], look: Look) -> str | None:
    """The file by which images are to be made ready, where neither it nor the user says how."""
    first = named[0]
    asked = first.file is not None and not any(one.network for one in named) and None in (look.mean, look.std)
    return first.name if asked and first.file is not None and onnx_model(first.file, look.img_size).mute else None


def _rungs(named: Sequence[_Named], fit: Fit, threads: int) -> list[Rung]:
    """All of the rungs, which take images of one size."""
    size = (fit.channels, *fit.size)
    rungs = []
    for one in named:
        if one.module is not None:
            stored = one.run / WEIGHTS_FILE if one.run is not None else None
            bytes_ = stored.stat().st_size if stored is not None and stored.is_file() else None
            rungs.append(of_module(one.name, one.module, size, bytes_=bytes_))
        elif one.file is not None:
            rungs.append(of_file(one.file, threads, name=one.name, size=size))
    if others := [f"{rung.name} takes {_x(rung.size)}" for rung in rungs if rung.size != size]:
        raise UsageError(
            f"the ladder is measured on images of {_x(size)}, but {', '.join(others)}.",
            "Give --img-size, or measure them apart.",
        )
    return rungs


def _x(size: Sequence[int]) -> str:
    return "x".join(map(str, size))


def _classes(named: Sequence[_Named], fit: Fit) -> tuple[int, tuple[str, ...]]:
    """How many classes the first network has, or the first file, and what that file calls them."""
    if network := next((one.network for one in named if one.network is not None), None):
        return network.num_classes, ()
    assert named[0].file is not None
    first = onnx_model(named[0].file, fit.size)
    return first.num_classes, first.called


# -- what it is measured on ---------------------------------------------------------------------------------------


def _pictures(
    images: str | Path | None,
    classes: str | Path | None,
    runs: dict[str, Asked],
    fit: Fit,
    named: Sequence[_Named],
    most: int | None,
    jobs: int | None,
    listen: Listener,
) -> _Pictures:
    """The images that were given, with their labels; else those of the first run; else noise."""

    def found_in(source: Path) -> pictures.Images:
        def tell(done: int, total: int) -> None:
            listen(Decoded(done, total))

        return pictures.load(source, fit, jobs=jobs, most=most, on_progress=tell)

    if images is not None:
        found = found_in(Path(images))
        many, called = _classes(named, fit)
        listed = Path(classes) if classes is not None else None
        labels = naming.read(Path(images), found.names, many, listed, called)
        known = (labels.indices, labels.rule) if labels is not None else (None, None)
        return _Pictures(found.pixels, str(images), *known)
    for asked in list(runs.values())[:1]:
        own = asked.val_images or asked.images
        try:
            return _Pictures(found_in(Path(own)).pixels, own)
        except ImagesError as gone:
            listen(Warned(f"the run's images are not there any more, so agreement is not measured: {gone.found}"))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (8, fit.channels, *fit.size), dtype=torch.uint8, generator=generator)
    return _Pictures(noise, None)


def _write(
    measured: Sequence[Measured],
    named: Sequence[_Named],
    runs: dict[str, Asked],
    given: tuple[str, str | None] | None,
    listen: Listener,
) -> None:
    """Each run's folder gets its own rungs and those of no run, if the teacher, `given` or the first one's, is its."""
    teachers = {Path(run): (asked.networks.teacher, asked.networks.teacher_checkpoint) for run, asked in runs.items()}
    for folder, its in teachers.items():
        if its != (given or next(iter(teachers.values()))):
            listen(Warned(f"{folder} was measured beside another teacher than its own: it gets no {BENCH_FILE}"))
            continue
        own = [found for found, one in zip(measured, named, strict=True) if one.run in (None, folder)]
        write_json(folder / BENCH_FILE, ladder_json(own))
        listen(Saved(str(folder / BENCH_FILE)))
        report([folder], listen=listen)  # which shows the ladder


def bench_json(found: Bench) -> dict[str, Any]:
    return asdict(found)
