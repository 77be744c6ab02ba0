"""`graftcli.bench`: benchmark models and ONNX files on the CPU, and write bench.json into the folder of each run."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from graftcli.api.reporting import report
from graftcli.benching.images import load_bench_images
from graftcli.benching.models import NamedModel, make_candidates, named_models, reference_model
from graftcli.environment.machine import cpu, usable_cores
from graftcli.errors import GraftError
from graftcli.events import BatchTimed, FileSaved, Listener, Warned
from graftcli.measure.benchmark import SECONDS, BenchEntry, BenchImages, benchmark, entries_as_json
from graftcli.models.loading.model_spec import absolute_spec, path_of
from graftcli.models.network import Network, size_notes
from graftcli.report.run_view import BenchView, read_bench
from graftcli.runs.config import RunConfig, absolute, recorded_config
from graftcli.runs.input_size import shared_size, small_images
from graftcli.runs.loading import specs_of
from graftcli.runs.onnx_models import OnnxModel
from graftcli.runs.repair import repair
from graftcli.runs.scoring import (
    Model,
    PreprocessOptions,
    build_options,
    preprocess_for,
    preprocess_options,
)
from graftcli.store import BENCH_FILE
from graftcli.store.atomic import write_json
from graftcli.store.run_file import RUN_FILE

QUICK_SECONDS, QUICK_IMAGES = 1.0, 256  # seconds per candidate, for the short benchmark after an export


@dataclass(frozen=True)
class Bench:
    """The result of a benchmark; agreement is with the first entry, on `images` images of `source`."""

    cpu: str
    threads: int
    batch: int
    source: str | None  # None for noise, on which only time is measured
    images: int
    rule: str | None  # how folder names are mapped to classes
    rungs: tuple[BenchEntry, ...]


def bench(
    models: str | Path | Sequence[str | Path],
    *,
    teacher: str | None = None,
    checkpoint: str | Path | None = None,
    teacher_checkpoint: str | Path | None = None,
    images: str | Path | None = None,
    classes: str | Path | None = None,
    batch: int = 32,
    threads: int | None = None,
    seconds: float = SECONDS,
    jobs: int | None = None,
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
    max_images: int | None = None,
    update: bool = False,
    listen: Listener = lambda _: None,
) -> Bench:
    """Measure size, MACs, latency and agreement of networks and ONNX files in turns on the CPU.

    The first entry is the baseline: the teacher, if one is given or a run has one. All entries get the same pixels,
    cropped as the first network requires and normalised with their own mean and std. The result is also written to the
    folder of each run, as bench.json.

    Parameters:
        models: Runs, which bring their teacher, student and ONNX files, model specs, and ONNX files.
        teacher: The baseline. Default: the teacher of the first run.
        checkpoint: Weights file of a model spec; ``"none"`` for random weights.
        teacher_checkpoint: Weights file of the teacher.
        images: Images for agreement. Default: those of the first run, else noise, on which only time is measured.
        classes: File with the class names in order.
        batch: The larger of the two batch sizes; the other is 1.
        threads: CPU threads. Default: all cores.
        seconds: Time per network and batch size.
        jobs: Threads that decode images. Default: one per core, at most 16.
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
        max_images: Maximum number of images.
        update: Keep a bench.json that was measured on more images.
        listen: Called with every event; see ``graftcli.events``.

    Returns:
        One entry per network or file.

    Example:
        >>> graftcli.bench(["resnet34", "resnet18"], checkpoint="none").rungs[1].params  # doctest: +SKIP
    """
    models = specs_of(models)
    given_options = preprocess_options(img_size, mean, std, crop_pct, interpolation)
    build_args = build_options(num_classes, in_chans, ema, unsafe_load, trust_code)
    paths = {model: path_of(model) for model in models}
    folders = {model: path for model, path in paths.items() if path and (path / RUN_FILE).is_file()}
    runs = {}
    for model, path in folders.items():
        runs[model] = recorded_config(repair(path, trust_code=trust_code, listen=listen), trust_code=trust_code)
    options = _override(next(iter(runs.values())).look if runs else PreprocessOptions(), given_options)
    weights = {"teacher": teacher_checkpoint, "model": checkpoint}

    def load_models(size: tuple[int, int] | None) -> list[NamedModel]:
        return list(named_models(models, runs, teacher, weights, {"img_size": size, **build_args}))

    named_size, named = options.img_size, load_models(options.img_size)
    networks = [item.model for item in named if isinstance(item.model, Network)]
    if images is not None and (size := shared_size(networks, images, listen, jobs=jobs)) is not None:
        options, named = replace(options, img_size=size), load_models(size)
    reference = reference_model(named, options)
    for warning in _warnings(named, reference if images is not None else None, options):
        listen(Warned(warning))
    preprocess, thread_count = preprocess_for(reference, options), threads or usable_cores()
    candidates = make_candidates(named, reference, preprocess, given_options, thread_count)
    bench_images = load_bench_images(images, classes, runs, preprocess, reference, max_images, jobs, listen)
    for hint in small_images(bench_images.short_side, preprocess, named_size):
        listen(Warned(hint))
    measured = benchmark(
        candidates,
        BenchImages(bench_images.pixels, preprocess, bench_images.labels, noise=bench_images.source is None),
        batch=batch,
        threads=thread_count,
        seconds=seconds,
        on_progress=lambda size, share: listen(BatchTimed(size, round(100 * share), 100)),
    )
    user_teacher = (absolute_spec(teacher), absolute(teacher_checkpoint)) if teacher else None
    _write(measured, named, runs, user_teacher, listen, keep_better=update)
    count = len(bench_images.pixels) if bench_images.source is not None else 0
    return Bench(cpu().name, thread_count, batch, bench_images.source, count, bench_images.rule, measured)


def bench_export(model: str, file: str, *, listen: Listener = lambda _: None, **settings: Any) -> Bench | None:
    """Run a short benchmark of a model and its exported file; `settings` are those of `bench`.

    An error becomes a warning, because the export itself is complete.
    """
    try:
        return bench(
            [model, file], seconds=QUICK_SECONDS, max_images=QUICK_IMAGES, update=True, listen=listen, **settings
        )
    except GraftError as error:
        listen(Warned(f"the benchmark stopped: {error.message}"))
        return None


def _warnings(named: Sequence[NamedModel], reference: Model | None, options: PreprocessOptions) -> Iterator[str]:
    """Yield a warning for each reason why predictions may be meaningless; `reference` sets the preprocessing."""
    for item in named:
        if isinstance(item.model, Network) and item.model.weights.is_random:
            yield f"{item.name} has random weights: its predictions are meaningless"
        if isinstance(item.model, Network):
            yield from size_notes(item.model)
    if isinstance(reference, OnnxModel) and reference.lacks_normalization and None in (options.mean, options.std):
        yield f"{reference.name} has no mean and std in its metadata: using those of ImageNet; give --mean and --std"


def _override(options: PreprocessOptions, overrides: PreprocessOptions) -> PreprocessOptions:
    """Return the options, with the overrides that are not None."""
    values = {field.name: getattr(overrides, field.name) for field in fields(PreprocessOptions)}
    return replace(options, **{name: value for name, value in values.items() if value is not None})


# -- files --------------------------------------------------------------------------------------------------------


def _write(
    measured: Sequence[BenchEntry],
    named: Sequence[NamedModel],
    runs: dict[str, RunConfig],
    user_teacher: tuple[str, str | None] | None,
    listen: Listener,
    *,
    keep_better: bool,
) -> None:
    """Write bench.json into the folder of each run whose teacher was measured, without the entries of other runs."""
    teachers = {
        Path(run): (config.networks.teacher, config.networks.teacher_checkpoint) for run, config in runs.items()
    }
    for folder, run_teacher in teachers.items():
        if run_teacher != (user_teacher or next(iter(teachers.values()))):
            listen(Warned(f"{folder} was measured with a different teacher: {BENCH_FILE} is not written"))
            continue
        if keep_better and _is_more_complete(read_bench(folder / BENCH_FILE), measured):
            existing = f"{folder / BENCH_FILE} was measured on more images, or with labels"
            listen(Warned(f"{existing}, and is kept; `graftcli bench` replaces it"))
            continue
        entries = [entry for entry, item in zip(measured, named, strict=True) if item.run in (None, folder)]
        write_json(folder / BENCH_FILE, entries_as_json(entries))
        listen(FileSaved(str(folder / BENCH_FILE)))
        report([folder], listen=listen)


def _is_more_complete(existing: Sequence[BenchView], measured: Sequence[BenchEntry]) -> bool:
    """Whether the existing benchmark has more images, or accuracy that the new one lacks."""
    has_accuracy = any(entry.top1 is not None for entry in existing) and measured[0].top1 is None
    return has_accuracy or any(entry.images > measured[0].images for entry in existing)


def bench_json(result: Bench) -> dict[str, object]:
    """The result as JSON, as with `--json`."""
    return asdict(result)
