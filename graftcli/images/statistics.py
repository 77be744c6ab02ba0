"""Dataset statistics: counts, formats, sizes, broken and duplicate images.

Files are read once; about half a kilobyte per image is kept in memory.
"""

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from graftcli.errors import ImagesError
from graftcli.images import duplicates
from graftcli.images.decoding import Broken, File, process_files
from graftcli.images.duplicates import Fingerprint, Groups, compute_fingerprint
from graftcli.images.pixels import StoredImage, open_image, resize_and_crop
from graftcli.images.preprocess import Preprocess
from graftcli.images.sources import SUPPORTED, open_source

Size = tuple[int, int]  # width, height
_COMMON = 5  # sizes listed with their counts


@dataclass(frozen=True)
class Sizes:
    """The sizes of the images."""

    smallest: Size  # by area, as median and largest
    median: Size
    largest: Size
    different: int
    common: tuple[tuple[Size, int], ...]  # the most frequent sizes, with their image counts


@dataclass(frozen=True)
class DatasetStatistics:
    """`exact`, `near` and `plain` hold names. Copies count as images."""

    images: int  # readable images
    broken: tuple[Broken, ...]
    formats: dict[str, int]
    modes: dict[str, int]
    sizes: Sizes
    enlarged: int | None  # images smaller than the network's resized input; None without a network
    exact: Groups  # byte-identical files
    near: Groups  # near duplicates; the first of each exact group represents it
    plain: tuple[str, ...]  # of a single colour

    @property
    def copies(self) -> int:
        """The number of images that are exact copies of another."""
        return sum(len(group) - 1 for group in self.exact)

    @property
    def near_copies(self) -> int:
        """The number of images that are near duplicates of another."""
        return sum(len(group) - 1 for group in self.near)


@dataclass(frozen=True)
class _Summary:
    name: str
    stored: StoredImage
    digest: bytes
    fingerprint: Fingerprint
    pixels: NDArray[np.uint8] | None


def collect_statistics(
    source: Path,
    preprocess: Preprocess | None,
    *,
    on_batch: Callable[[Tensor], None] | None = None,
    batch: int = 128,
    jobs: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> DatasetStatistics:
    """The statistics of a folder or archive. `on_batch` is called with each batch of decoded images, uint8."""
    collector, batches = _Collector(), _Batches(on_batch, batch)
    with open_source(source) as opened, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # most warnings are about unusual metadata; real damage raises
        work = partial(_summarise, preprocess if on_batch is not None else None)
        for done, result in enumerate(process_files(opened.entries, work, jobs), 1):
            collector.add(result)
            if isinstance(result, _Summary) and result.pixels is not None:
                batches.add(result.pixels)
            if on_progress:
                on_progress(done, len(opened.entries))
    batches.flush()
    if not collector.images:
        raise _no_images(source, collector.broken, opened.suffixes)
    return collector.statistics(preprocess)


def find_duplicates(pixels: Tensor, names: Sequence[str]) -> tuple[Groups, Groups]:
    """The names of exact and of near duplicates among images in memory, uint8 [images, channels, height, width]."""
    collector = _Duplicates()
    for name, row in zip(names, pixels.numpy(), strict=True):
        collector.add(name, hashlib.sha256(row.tobytes()).digest(), compute_fingerprint(_as_image(row)))
    exact, near, _ = collector.groups()
    return exact, near


def _as_image(row: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(row[0] if len(row) == 1 else row.transpose(1, 2, 0))


def _summarise(preprocess: Preprocess | None, file: File) -> _Summary:
    channels = preprocess.channels if preprocess is not None else 3
    with open_image(file.data, channels, preprocess, file.allowance) as image:
        fingerprint = compute_fingerprint(image.flat)
        pixels = resize_and_crop(image, preprocess) if preprocess is not None else None
    return _Summary(file.name, image.stored, hashlib.sha256(file.data).digest(), fingerprint, pixels)


class _Batches:
    """Collects pixels into batches, and passes each to `on_batch`."""

    def __init__(self, on_batch: Callable[[Tensor], None] | None, batch: int) -> None:
        self.on_batch, self.batch = on_batch, batch
        self._rows: list[NDArray[np.uint8]] = []

    def add(self, row: NDArray[np.uint8]) -> None:
        self._rows.append(row)
        if len(self._rows) >= self.batch:
            self.flush()

    def flush(self) -> None:
        if self._rows and self.on_batch is not None:
            self.on_batch(torch.from_numpy(np.stack(self._rows)))
        self._rows.clear()


class _Duplicates:
    """Collects digests and fingerprints of images, and groups exact and near duplicates."""

    def __init__(self) -> None:
        self._first: dict[bytes, str] = {}
        self._copies: dict[bytes, list[str]] = {}
        self._fingerprints: list[tuple[str, Fingerprint]] = []
        self._plain: list[str] = []

    def add(self, name: str, digest: bytes, fingerprint: Fingerprint) -> None:
        if digest in self._first:
            self._copies.setdefault(digest, [self._first[digest]]).append(name)
            return
        self._first[digest] = name
        if fingerprint.plain:
            self._plain.append(name)
        else:
            self._fingerprints.append((name, fingerprint))

    def groups(self) -> tuple[Groups, Groups, tuple[str, ...]]:
        """Exact duplicates, near duplicates, and plain images."""
        names = [name for name, _ in self._fingerprints]
        near: Groups = ()
        if names:
            bits = np.array([fingerprint.bits for _, fingerprint in self._fingerprints], np.uint64)
            joined = b"".join(fingerprint.thumbnail for _, fingerprint in self._fingerprints)
            thumbnails = np.frombuffer(joined, np.uint8).reshape(len(names), -1)
            near = duplicates.find_near_duplicates(names, bits, thumbnails)
        return duplicates.sorted_groups(self._copies.values()), near, tuple(sorted(self._plain))


class _Collector:
    """Accumulates the statistics, image by image."""

    def __init__(self) -> None:
        self.images = 0
        self.broken: list[Broken] = []
        self._formats: Counter[str] = Counter()
        self._modes: Counter[str] = Counter()
        self._sizes: Counter[Size] = Counter()
        self._duplicates = _Duplicates()

    def add(self, result: _Summary | Broken) -> None:
        if isinstance(result, Broken):
            self.broken.append(result)
            return
        self.images += 1
        self._formats[result.stored.format] += 1
        self._modes[result.stored.mode] += 1
        self._sizes[result.stored.width, result.stored.height] += 1
        self._duplicates.add(result.name, result.digest, result.fingerprint)

    def statistics(self, preprocess: Preprocess | None) -> DatasetStatistics:
        exact, near, plain = self._duplicates.groups()
        return DatasetStatistics(
            images=self.images,
            broken=tuple(sorted(self.broken, key=lambda image: image.name)),
            formats=dict(self._formats.most_common()),
            modes=dict(self._modes.most_common()),
            sizes=_sizes(self._sizes),
            enlarged=_count_smaller(self._sizes, preprocess) if preprocess is not None else None,
            exact=exact,
            near=near,
            plain=plain,
        )


def _count_smaller(counts: Counter[Size], preprocess: Preprocess) -> int:
    tall, wide = preprocess.resized
    return sum(count for (width, height), count in counts.items() if width < wide or height < tall)


def _sizes(counts: Counter[Size]) -> Sizes:
    by_area = sorted(counts, key=lambda size: (size[0] * size[1], size))
    cumulative, half = 0, counts.total() / 2
    median = by_area[-1]
    for size in by_area:
        cumulative += counts[size]
        if cumulative >= half:
            median = size
            break
    return Sizes(by_area[0], median, by_area[-1], len(counts), tuple(counts.most_common(_COMMON)))


def _no_images(source: Path, broken: list[Broken], suffixes: Counter[str]) -> ImagesError:
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(8))
    listed = "".join(f"\n  {image.name}: {image.reason}" for image in broken[:5])
    message = f"`{source}` holds no readable image. {suffixes.total()} files were checked"
    return ImagesError(f"{message}{f' ({kinds})' if kinds else ''}.{listed}", SUPPORTED)
