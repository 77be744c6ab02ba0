"""Check a folder of images before training: `inspect_images`, and the short check of a run."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from graftcli.environment.devices import device_named
from graftcli.events import ImagesChecked, ImagesDecoded, Listener
from graftcli.images import Images
from graftcli.images.advice import advise, advise_on_classes
from graftcli.images.coverage import Coverage, Predictions
from graftcli.images.labels import class_names
from graftcli.images.pixels import Preprocess
from graftcli.images.statistics import DatasetStatistics, collect_statistics, find_duplicates
from graftcli.measure import compute_logits
from graftcli.models.loading.in_memory import spec_of
from graftcli.models.network import IMAGENET, Network
from graftcli.runs.input_size import built_for_images
from graftcli.runs.scoring import PreprocessOptions, build_options, preprocess_for, preprocess_options

if TYPE_CHECKING:
    from graftcli.models.loading.build import NetworkOptions

_TEACHER_IMAGES = 200  # images that the short check of a run passes through the teacher
_MAX_PROGRESS_EVENTS = 1000
_DUPLICATE_IMAGES = 5000  # images that the short check compares for duplicates


@dataclass(frozen=True)
class ImagesReport:
    """What was found in a folder of images."""

    source: str
    preprocess: Preprocess | None  # None without a network and a size
    statistics: DatasetStatistics
    coverage: Coverage | None  # None without a teacher
    advice: tuple[str, ...]


def inspect_images(
    images: str | Path,
    *,
    teacher: str | nn.Module | None = None,
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
) -> ImagesReport:
    """Report what is in a folder of images, which classes the teacher predicts for them, and what to fix.

    Works for any number of images: each is read once and not kept in memory.

    Parameters:
        images: A folder, .zip, .tar, .parquet, .arrow or .list, many of the latter, or a URL.
        teacher: Network that predicts the classes, as for `distill`. Default: none, so classes are not reported.
        teacher_checkpoint: Weights file of the teacher.
        classes: File with the class names in order.
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
        Counts, sizes, corrupt and duplicate files, class coverage, and advice.

    Raises:
        ImagesError: The folder is missing or holds no images.

    Example:
        >>> graftcli.inspect_images("10shot", teacher="resnet34").advice  # doctest: +SKIP
    """
    options = preprocess_options(img_size, mean, std, crop_pct, interpolation)
    build_args = build_options(num_classes, in_chans, ema, unsafe_load, trust_code)
    network, predictions = None, Predictions()
    if teacher is not None:
        build_sized = partial(build_teacher, spec_of(teacher), teacher_checkpoint, options, build_args)
        network = built_for_images(build_sized, images, listen, jobs=jobs)
    preprocess = preprocess_for(network, options) if network is not None else preprocess_of_size(options)
    statistics = collect_statistics(
        Path(images),
        preprocess,
        on_batch=_predicting(network.module, preprocess, device, batch, predictions)
        if network is not None and preprocess is not None
        else None,
        batch=batch,
        jobs=jobs,
        on_progress=throttled(listen),
    )
    coverage = None
    if network is not None:
        coverage = coverage_of(network, predictions, Path(classes) if classes is not None else None)
    return ImagesReport(str(images), preprocess, statistics, coverage, advise(statistics, coverage))


def build_teacher(
    spec: str,
    checkpoint: str | Path | None,
    options: PreprocessOptions,
    build_args: "NetworkOptions",
    size: tuple[int, int] | None,
) -> Network:
    """Build a teacher from the arguments of a public function."""
    from graftcli.models.loading.build import (
        build,  # imported here, because timm is slow to import and not always needed
    )

    sized: NetworkOptions = {**build_args, "img_size": size or options.img_size}
    return build(spec, checkpoint=checkpoint, role="teacher", **sized)


def throttled(listen: Listener) -> Callable[[int, int], None]:
    """Return a progress callback that sends at most about `_MAX_PROGRESS_EVENTS` events."""

    def report(done: int, total: int) -> None:
        if done == total or done % max(1, total // _MAX_PROGRESS_EVENTS) == 0:
            listen(ImagesDecoded(done, total))

    return report


def preprocess_of_size(options: PreprocessOptions) -> Preprocess | None:
    """Return the preprocessing without a network: the given size, with ImageNet statistics."""
    if options.img_size is None:
        return None
    return Preprocess(options.img_size, 3, IMAGENET.mean, IMAGENET.std, options.crop_pct or 1.0, IMAGENET.interpolation)


def _predicting(
    module: nn.Module, preprocess: Preprocess, device: str, batch: int, predictions: Predictions
) -> Callable[[Tensor], None]:
    torch_device = device_named(device)
    return lambda pixels: predictions.add(compute_logits(module, pixels, preprocess, torch_device, batch))


def coverage_of(network: Network, predictions: Predictions, classes: Path | None) -> Coverage:
    """Summarise the predictions of a network, with the names of its classes."""
    from_list = network.source in ("timm", "torchvision", "hf-hub")
    names = class_names(network.num_classes, classes, imagenet=from_list)
    return predictions.coverage(network.name, names, not network.weights.is_random)


def check_run_images(network: Network, images: Images, preprocess: Preprocess, device: torch.device) -> ImagesChecked:
    """Check the decoded images of a run; the cost does not grow with their number."""
    step = -(-len(images.pixels) // _TEACHER_IMAGES)
    predictions = Predictions()
    predictions.add(compute_logits(network.module, images.pixels[::step], preprocess, device, batch=32))
    network.module.to("cpu")
    coverage = coverage_of(network, predictions, None)
    exact, near = find_duplicates(images.pixels[:_DUPLICATE_IMAGES], images.names[:_DUPLICATE_IMAGES])
    return ImagesChecked(
        images=len(images.pixels),
        broken=len(images.broken),
        duplicates=sum(len(group) - 1 for group in (*exact, *near)),
        shown=coverage.images,
        classes=coverage.classes,
        covered=coverage.covered,
        confidence=coverage.confidence,
        advice=advise_on_classes(coverage),
    )


def check_json(report: ImagesReport) -> dict[str, object]:
    """The report as JSON, as with `--json`."""
    return asdict(report)
