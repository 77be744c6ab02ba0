"""The models that `bench` measures: runs, model specs and ONNX files, each with a unique name."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from graftcli.errors import UsageError
from graftcli.images.pixels import Preprocess
from graftcli.measure.candidate import Candidate, module_candidate
from graftcli.measure.onnx.facts import read_onnx
from graftcli.models.loading.build import NetworkOptions, build
from graftcli.models.loading.saved import WEIGHTS_FILE
from graftcli.models.network import Network
from graftcli.report.format import numbers
from graftcli.runs.config import RunConfig
from graftcli.runs.loading import network_of
from graftcli.runs.onnx_models import OnnxModel, is_onnx, onnx_model
from graftcli.runs.recorded import recorded_teacher
from graftcli.runs.scoring import Model, PreprocessOptions, model_preprocess
from graftcli.store.run_file import read_record

_PRECISIONS = ("fp32", "bf16", "fp16", "int8")


@dataclass(frozen=True)
class NamedModel:
    """A network or an ONNX file to benchmark; `run` is the folder of its run."""

    name: str
    model: Network | Path
    run: Path | None = None


# -- collecting ---------------------------------------------------------------------------------------------------


def named_models(
    models: Sequence[str],
    runs: dict[str, RunConfig],
    teacher: str | None,
    weights: dict[str, str | Path | None],
    build_args: NetworkOptions,
) -> Iterator[NamedModel]:
    """Yield each model once with a unique name, the teacher first."""
    collected: list[NamedModel] = []
    if teacher is not None:
        network = build(teacher, checkpoint=weights["teacher"], role="teacher", **build_args)
        collected.append(NamedModel(f"{network.name} (teacher)", network))
    elif runs:
        network = recorded_teacher(next(iter(runs.values())), build_args)
        collected.append(NamedModel(f"{network.name} (teacher)", network))
    for model in models:
        if model in runs:
            collected += _models_of_run(Path(model), build_args, alone=len(runs) == 1)
        elif is_onnx(model):
            collected.append(NamedModel(Path(model).name, Path(model)))
        else:
            network = network_of(model, checkpoint=weights["model"], role="model", **build_args)
            collected.append(NamedModel(network.name, network))
    unique = {item.model.resolve() if isinstance(item.model, Path) else object(): item for item in collected}
    counts: dict[str, int] = {}
    for item in unique.values():
        counts[item.name] = counts.get(item.name, 0) + 1
        yield item if counts[item.name] == 1 else replace(item, name=f"{item.name} #{counts[item.name]}")


def _models_of_run(folder: Path, build_args: NetworkOptions, *, alone: bool) -> Iterator[NamedModel]:
    """Yield the student or hybrid of a run, and the ONNX files in its folder."""
    settings = read_record(folder).settings
    name = settings.student.name if settings.replaces_all_blocks else f"{numbers(settings.blocks)} replaced"
    network = network_of(folder, img_size=build_args.get("img_size"), trust_code=bool(build_args.get("trust_code")))
    yield NamedModel(f"{name} (student)" if alone else f"{folder.name}: {name}", network, folder)
    for file in sorted(folder.glob("*.onnx"), key=_by_precision):
        yield NamedModel(file.name if alone else f"{folder.name}: {file.name}", file, folder)


def _by_precision(file: Path) -> tuple[int, str]:
    """Sort key: fp32 first, int8 last."""
    return (_PRECISIONS.index(read_onnx(file).precision), file.name)


# -- building -----------------------------------------------------------------------------------------------------


def reference_model(models: Sequence[NamedModel], options: PreprocessOptions) -> Model:
    """Return the model that determines preprocessing and classes: the first network, else the first ONNX file."""
    network = next((item.model for item in models if isinstance(item.model, Network)), None)
    if network is not None:
        return network
    assert isinstance(models[0].model, Path)
    return onnx_model(models[0].model, options.img_size)


def make_candidates(
    models: Sequence[NamedModel], reference: Model, preprocess: Preprocess, options: PreprocessOptions, threads: int
) -> list[Candidate]:
    """Build the candidates of the benchmark; raise unless all have the same input size.

    The reference model gets `preprocess`, the others their own mean and std unless `options` overrides them.
    """
    built = [
        onnx_model(item.model, preprocess.size, preprocess.channels, threads)
        if isinstance(item.model, Path)
        else item.model
        for item in models
    ]
    size = (preprocess.channels, *preprocess.size)
    if others := [
        f"{item.name} takes {_dimensions(input_size)}"
        for item, model in zip(models, built, strict=True)
        if (input_size := _input_size(model, preprocess)) != size
    ]:
        raise UsageError(
            f"the benchmark has input size {_dimensions(size)}, but {', '.join(others)}.",
            "Give --img-size or --in-chans, or measure them separately.",
        )
    return [
        replace(
            _candidate(item, model, size),
            preprocess=preprocess if model is reference else model_preprocess(model, preprocess, options),
        )
        for item, model in zip(models, built, strict=True)
    ]


def _input_size(model: Model, preprocess: Preprocess) -> tuple[int, int, int]:
    """Return the input size of a model; a network accepts any height and width."""
    return model.candidate.size if isinstance(model, OnnxModel) else (model.input_size[0], *preprocess.size)


def _candidate(item: NamedModel, model: Model, size: tuple[int, int, int]) -> Candidate:
    if isinstance(model, OnnxModel):
        return replace(model.candidate, name=item.name)
    weights_file = item.run / WEIGHTS_FILE if item.run is not None else None
    bytes_ = weights_file.stat().st_size if weights_file is not None and weights_file.is_file() else None
    return module_candidate(item.name, model.module, size, bytes_=bytes_)


def _dimensions(size: Sequence[int]) -> str:
    return "x".join(map(str, size))
