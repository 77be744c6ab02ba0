"""What `bench` measures: runs, specs and ONNX files, each a rung of the ladder under a name of its own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graftcli.errors import UsageError
from graftcli.images.pixels import Preprocess
from graftcli.measure.benchmark import Candidate, of_module
from graftcli.measure.onnx.facts import read_onnx
from graftcli.models.loading.build import build
from graftcli.models.loading.saved import WEIGHTS_FILE
from graftcli.models.network import Network
from graftcli.report.format import numbers
from graftcli.runs.config import RunConfig
from graftcli.runs.loading import network_of
from graftcli.runs.onnx_models import OnnxModel, onnx_model
from graftcli.runs.recorded import recorded_teacher
from graftcli.runs.scoring import Model, PreprocessOptions, fit_of
from graftcli.store.run_record import read_record

_PRECISIONS = ("fp32", "bf16", "fp16", "int8")


@dataclass(frozen=True)
class NamedModel:
    """A rung before it is made: a network, or an ONNX file, and the run's folder that it lies in."""

    name: str
    what: Network | Path
    run: Path | None = None


# -- which there are ----------------------------------------------------------------------------------------------


def named(
    models: Sequence[str],
    runs: dict[str, RunConfig],
    teacher: str | None,
    weights: dict[str, str | Path | None],
    building: dict[str, Any],
) -> Iterator[NamedModel]:
    """Every rung once, the teacher first, each under a name of its own."""
    found: list[NamedModel] = []
    if teacher is not None:
        network = build(teacher, checkpoint=weights["teacher"], role="teacher", **building)
        found.append(NamedModel(f"{network.name} (teacher)", network))
    elif runs:
        network = recorded_teacher(next(iter(runs.values())), building)
        found.append(NamedModel(f"{network.name} (teacher)", network))
    for model in models:
        if model in runs:
            found += _of_run(Path(model), building, alone=len(runs) == 1)
        elif Path(model).suffix == ".onnx":
            found.append(NamedModel(Path(model).name, Path(model)))
        else:
            network = network_of(model, checkpoint=weights["model"], role="model", **building)
            found.append(NamedModel(network.name, network))
    seen: dict[str, int] = {}
    for one in {one.what.resolve() if isinstance(one.what, Path) else object(): one for one in found}.values():
        seen[one.name] = seen.get(one.name, 0) + 1
        yield one if seen[one.name] == 1 else replace(one, name=f"{one.name} #{seen[one.name]}")


def _of_run(folder: Path, building: dict[str, Any], *, alone: bool) -> Iterator[NamedModel]:
    """What came out of the run, and every ONNX file in the folder."""
    settings = read_record(folder)["settings"]
    whole = len(settings["blocks"]) == len(settings["cuts"]["student"]) + 1
    what = settings["student"]["name"] if whole else f"{numbers(settings['blocks'])} replaced"
    own = network_of(folder, img_size=building.get("img_size"), trust_code=bool(building.get("trust_code")))
    yield NamedModel(f"{what} (student)" if alone else f"{folder.name}: {what}", own, folder)
    for file in sorted(folder.glob("*.onnx"), key=_rank):
        yield NamedModel(file.name if alone else f"{folder.name}: {file.name}", file, folder)


def _rank(file: Path) -> tuple[int, str]:
    """Files from fp32 down to int8."""
    return (_PRECISIONS.index(read_onnx(file).precision), file.name)


# -- what they are ------------------------------------------------------------------------------------------------


def first_of(every: Sequence[NamedModel], look: PreprocessOptions) -> Model:
    """What says how images are cut, and which classes there are: the first network; among files alone the first."""
    network = next((one.what for one in every if isinstance(one.what, Network)), None)
    if network is not None:
        return network
    assert isinstance(every[0].what, Path)
    return onnx_model(every[0].what, look.img_size)


def rungs(
    every: Sequence[NamedModel], first: Model, preprocess: Preprocess, look: PreprocessOptions, threads: int
) -> list[Candidate]:
    """Build all of them; they must take images of one size.

    The first is given `preprocess`, the others their own preprocessing unless `look` overrides it.
    """
    models = [
        onnx_model(one.what, preprocess.size, preprocess.channels, threads) if isinstance(one.what, Path) else one.what
        for one in every
    ]
    size = (preprocess.channels, *preprocess.size)
    takes = [
        model.rung.size if isinstance(model, OnnxModel) else (model.input_size[0], *preprocess.size) for model in models
    ]
    if others := [f"{one.name} takes {_x(its)}" for one, its in zip(every, takes, strict=True) if its != size]:
        raise UsageError(
            f"the ladder is measured on images of {_x(size)}, but {', '.join(others)}.",
            "Give --img-size or --in-chans, or measure them apart.",
        )
    pairs = zip(every, models, strict=True)
    return [
        replace(_rung(one, model, size), preprocess=preprocess if model is first else fit_of(model, preprocess, look))
        for one, model in pairs
    ]


def _rung(one: NamedModel, model: Model, size: tuple[int, int, int]) -> Candidate:
    if isinstance(model, OnnxModel):
        return replace(model.rung, name=one.name)
    stored = one.run / WEIGHTS_FILE if one.run is not None else None
    bytes_ = stored.stat().st_size if stored is not None and stored.is_file() else None
    return of_module(one.name, model.module, size, bytes_=bytes_)


def _x(size: Sequence[int]) -> str:
    return "x".join(map(str, size))
