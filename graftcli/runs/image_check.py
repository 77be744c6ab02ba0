"""`images`: a folder looked over before anything is trained on it, with its teacher or without."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graftcli import images as pictures
from graftcli.environment.devices import device_named
from graftcli.events import ImagesChecked, ImagesDecoded, Listener
from graftcli.images.advice import advise, on_classes
from graftcli.images.coverage import Coverage, Predictions
from graftcli.images.labels import class_names
from graftcli.images.pixels import Preprocess
from graftcli.images.statistics import DatasetStatistics, doubled, survey
from graftcli.measure import logits
from graftcli.models.loading.build import build
from graftcli.models.network import IMAGENET, Network
from graftcli.runs.scoring import PreprocessOptions, preprocess_for

_SHOWN = 200  # images that a run's short check shows to the teacher: one quick pass
_TOLD = 1000  # times at most that progress is told
_COMPARED = 5000  # images among which it looks for duplicates


@dataclass(frozen=True)
class ImagesReport:
    source: str
    preprocess: Preprocess | None  # None where no network and no size is given
    census: DatasetStatistics
    coverage: Coverage | None  # None without a teacher
    advice: tuple[str, ...]


def check(
    images: str | Path,
    *,
    teacher: str | None = None,
    teacher_checkpoint: str | Path | None = None,
    classes: str | Path | None = None,
    look: PreprocessOptions | None = None,
    batch: int = 128,
    jobs: int | None = None,
    device: str = "auto",
    listen: Listener = lambda _: None,
    **building: Any,
) -> ImagesReport:
    """What is in a folder of images, what the teacher takes them for, and what to do about it.

    Any number of images: each is read once and not kept. `building` is what `build` takes: num_classes, in_chans, ema,
    unsafe, trust_code.
    """
    look = look or PreprocessOptions()
    network, answers = None, Predictions()
    if teacher is not None:
        network = build(teacher, checkpoint=teacher_checkpoint, img_size=look.img_size, role="teacher", **building)
    preprocess = preprocess_for(network, look) if network is not None else _sized(look)
    census = survey(
        Path(images),
        preprocess,
        see=_seeing(network.module, preprocess, device, batch, answers)
        if network is not None and preprocess is not None
        else None,
        batch=batch,
        jobs=jobs,
        on_progress=_telling(listen),
    )
    coverage = None
    if network is not None:
        coverage = _coverage(network, answers, Path(classes) if classes is not None else None)
    return ImagesReport(str(images), preprocess, census, coverage, advise(census, coverage))


def _telling(listen: Listener) -> Callable[[int, int], None]:
    """Progress, at most so often that nobody drowns in it."""

    def tell(done: int, total: int) -> None:
        if done == total or done % max(1, total // _TOLD) == 0:
            listen(ImagesDecoded(done, total))

    return tell


def _sized(look: PreprocessOptions) -> Preprocess | None:
    """Without a network, the size that was asked for is all that is known of how images will be seen."""
    if look.img_size is None:
        return None
    return Preprocess(look.img_size, 3, IMAGENET.mean, IMAGENET.std, look.crop_pct or 1.0, IMAGENET.interpolation)


def _seeing(
    module: nn.Module, preprocess: Preprocess, device: str, batch: int, answers: Predictions
) -> Callable[[Tensor], None]:
    where = device_named(device)
    return lambda pixels: answers.add(logits(module, pixels, preprocess, where, batch))


def _coverage(network: Network, answers: Predictions, classes: Path | None) -> Coverage:
    from_list = network.source in ("timm", "torchvision", "hf-hub")
    names = class_names(network.num_classes, classes, imagenet=from_list)
    return answers.coverage(network.name, names, network.weights != "random")


def checked(network: Network, found: pictures.Images, preprocess: Preprocess, device: torch.device) -> ImagesChecked:
    """The short form, for images that a run holds in memory: cheap, whatever their number."""
    step = -(-len(found.pixels) // _SHOWN)
    answers = Predictions()
    answers.add(logits(network.module, found.pixels[::step], preprocess, device, batch=32))
    network.module.to("cpu")
    coverage = _coverage(network, answers, None)
    exact, near = doubled(found.pixels[:_COMPARED], found.names[:_COMPARED])
    return ImagesChecked(
        images=len(found.pixels),
        broken=len(found.broken),
        duplicates=sum(len(group) - 1 for group in (*exact, *near)),
        shown=coverage.images,
        classes=coverage.classes,
        covered=coverage.covered,
        confidence=coverage.confidence,
        advice=on_classes(coverage),
    )


def check_json(found: ImagesReport) -> dict[str, Any]:
    return asdict(found)
