"""Select the most useful images of a source, in one pass of the teacher and bounded memory."""

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from graftcli.errors import ImagesError
from graftcli.images.coverage import Coverage, Predictions
from graftcli.images.decoding import Broken, File, process_files
from graftcli.images.duplicates import Fingerprint, compute_fingerprint
from graftcli.images.pixels import Preprocess, open_image, resize_and_crop
from graftcli.images.selection import method_named
from graftcli.images.selection.method import CandidateImage
from graftcli.images.sources import SourceFiles
from graftcli.measure.features import FeatureReader
from graftcli.models.network import Network
from graftcli.runs.image_check import coverage_of
from graftcli.store.atomic import write_json


@dataclass(frozen=True)
class SelectOptions:
    """How images are selected."""

    by: str
    count: int
    seed: int = 0
    batch: int = 128
    jobs: int | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    on_progress: Callable[[int, int], None] = lambda _done, _total: None


@dataclass(frozen=True)
class Selected:
    """The selected images, and the coverage of the teacher's classes by all images and by the selected ones."""

    indices: tuple[int, ...]  # among the entries of the source, the most useful first
    images: int  # readable images in the source
    broken: tuple[Broken, ...]
    before: Coverage | None  # None if the method needs no teacher
    after: Coverage | None


@dataclass(frozen=True)
class _DecodedImage:
    """A decoded image."""

    index: int
    name: str
    digest: bytes
    fingerprint: Fingerprint
    pixels: NDArray[np.uint8]


def select(
    opened: SourceFiles, network: Network | None, preprocess: Preprocess, options: SelectOptions, classes: Path | None
) -> Selected:
    """Select images of an open source; all of them if there are not more than requested."""
    method = method_named(options.by)
    teacher = _Teacher(network, preprocess, options.device) if network is not None and method.needs_teacher else None
    pool, broken, count, batch = method.pool(options.count, options.seed), list[Broken](), 0, list[_DecodedImage]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # most warnings are about unusual metadata; real damage raises
        for done, result in enumerate(process_files(opened.entries, partial(_decode, preprocess), options.jobs), 1):
            if isinstance(result, Broken):
                broken.append(result)
            else:
                batch.append(result)
            if len(batch) == options.batch or done == len(opened.entries):
                pool.add(_candidates(batch, teacher))
                count += len(batch)
                batch.clear()
            options.on_progress(done, len(opened.entries))
    chosen = pool.chosen()
    if len(chosen) < 2:
        raise ImagesError(f"only {len(chosen)} of {count} images can be selected.", "Give more images.")
    before, after = _coverages(teacher, chosen, classes)
    return Selected(tuple(one.index for one in chosen), count, tuple(broken), before, after)


def _decode(preprocess: Preprocess, file: File) -> _DecodedImage:
    with open_image(file.data, preprocess.channels, preprocess, file.allowance) as image:
        fingerprint, pixels = compute_fingerprint(image.flat), resize_and_crop(image, preprocess)
    return _DecodedImage(file.row, file.name, hashlib.sha256(file.data).digest(), fingerprint, pixels)


class _Teacher:
    """Predicts the classes of images, and counts the predictions."""

    def __init__(self, network: Network, preprocess: Preprocess, device: torch.device) -> None:
        self.network, self.predictions = network, Predictions()
        self._reader = FeatureReader(network.module, preprocess, device)

    def candidates(self, images: Sequence[_DecodedImage]) -> list[CandidateImage]:
        """The images with their predicted class and features; those with logits that are not finite are left out."""
        logits, features = self._reader.read(torch.from_numpy(np.stack([image.pixels for image in images])))
        self.predictions.add(logits)
        best = logits.softmax(1).max(1)
        finite = (logits.isfinite().all(1) & features.isfinite().all(1)).tolist()
        return [
            CandidateImage(
                image.index, image.name, image.digest, image.fingerprint, int(label), float(confidence), feature.copy()
            )
            for image, label, confidence, feature, known in zip(
                images, best.indices, best.values, features.numpy(), finite, strict=True
            )
            if known
        ]


def _candidates(images: Sequence[_DecodedImage], teacher: _Teacher | None) -> list[CandidateImage]:
    if not images:
        return []
    if teacher is not None:
        return teacher.candidates(images)
    return [CandidateImage(image.index, image.name, image.digest, image.fingerprint) for image in images]


def _coverages(
    teacher: _Teacher | None, chosen: Sequence[CandidateImage], classes: Path | None
) -> tuple[Coverage | None, Coverage | None]:
    if teacher is None:
        return None, None
    before = coverage_of(teacher.network, teacher.predictions, classes)
    labels = torch.tensor([one.label or 0 for one in chosen])
    after = Predictions()
    after.add_classes(labels, torch.tensor([one.confidence for one in chosen]), before.classes)
    return before, coverage_of(teacher.network, after, classes)


def remembered(file: Path, facts: object, make: Callable[[], Sequence[int]]) -> tuple[int, ...]:
    """Return the indices stored in a file if it was written for the same facts, else compute and store them."""
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    try:
        document = json.loads(file.read_bytes())
        if document["key"] == key:
            return tuple(cast(list[int], document["indices"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    indices = tuple(make())
    write_json(file, {"key": key, "indices": indices})
    return indices
