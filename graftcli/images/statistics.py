"""What a folder of images holds: how many, of which sizes and modes, which are broken, which are there twice.

The files are read once, one after the other; of each no more than a fingerprint is remembered, about half a kilobyte.
"""

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable
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
from graftcli.images.decoding import Broken, File, each
from graftcli.images.duplicates import Fingerprint, Groups, fingerprint
from graftcli.images.pixels import Preprocess, StoredImage, fitted, reading
from graftcli.images.sources import SUFFIXES, WANTED, opened

Size = tuple[int, int]  # width, height
_COMMON = 5  # sizes that are counted by name


@dataclass(frozen=True)
class Sizes:
    smallest: Size  # by area, as the others
    median: Size
    largest: Size
    different: int
    common: tuple[tuple[Size, int], ...]  # the most frequent ones, with how many images have them


@dataclass(frozen=True)
class DatasetStatistics:
    """`exact`, `near` and `plain` are names; an image that is there twice is counted twice."""

    images: int  # that can be read
    broken: tuple[Broken, ...]
    formats: dict[str, int]
    modes: dict[str, int]
    sizes: Sizes
    enlarged: int | None  # images that are smaller than what the network sees of them; None without a network
    exact: Groups  # byte for byte the same
    near: Groups  # nearly the same; of byte for byte equal ones, the first stands for all
    plain: tuple[str, ...]  # of one shade all over

    @property
    def copies(self) -> int:
        """Images that are byte for byte another one."""
        return sum(len(group) - 1 for group in self.exact)

    @property
    def lookalikes(self) -> int:
        """Images that are nearly another one."""
        return sum(len(group) - 1 for group in self.near)


@dataclass(frozen=True)
class _Seen:
    name: str
    stored: StoredImage
    digest: bytes
    print: Fingerprint
    pixels: NDArray[np.uint8] | None


def survey(
    source: Path,
    preprocess: Preprocess | None,
    *,
    see: Callable[[Tensor], None] | None = None,
    batch: int = 128,
    jobs: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> DatasetStatistics:
    """The statistics of a folder or archive; `see` is called with each batch of preprocessed images."""
    tally, waiting = _Tally(), _Batches(see, batch)
    with opened(source) as found, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about odd metadata, mostly: what spoils the image is an exception
        looked = each(found.entries, partial(_looked, preprocess if see is not None else None), jobs)
        for done, one in enumerate(looked, 1):
            tally.add(one)
            if isinstance(one, _Seen) and one.pixels is not None:
                waiting.add(one.pixels)
            if on_progress:
                on_progress(done, len(found.entries))
    waiting.flush()
    if not tally.images:
        raise _nothing(source, tally.broken, found.suffixes)
    return tally.census(preprocess)


def doubled(pixels: Tensor, names: tuple[str, ...]) -> tuple[Groups, Groups]:
    """Names of the same and of nearly the same images among some that are in memory, uint8 [images, channels, h, w]."""
    tally = _Duplicates()
    for name, row in zip(names, pixels.numpy(), strict=True):
        tally.add(name, hashlib.sha256(row.tobytes()).digest(), fingerprint(_picture(row)))
    exact, near, _ = tally.found()
    return exact, near


def _picture(row: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(row[0] if len(row) == 1 else row.transpose(1, 2, 0))


def _looked(preprocess: Preprocess | None, file: File) -> _Seen:
    with reading(
        file.data, preprocess.channels if preprocess is not None else 3, preprocess, file.allowance
    ) as picture:
        seen = fingerprint(picture.flat)
        pixels = fitted(picture, preprocess) if preprocess is not None else None
    return _Seen(file.name, picture.stored, hashlib.sha256(file.data).digest(), seen, pixels)


class _Batches:
    """Pixels, gathered into batches."""

    def __init__(self, see: Callable[[Tensor], None] | None, batch: int) -> None:
        self.see, self.batch = see, batch
        self._rows: list[NDArray[np.uint8]] = []

    def add(self, row: NDArray[np.uint8]) -> None:
        self._rows.append(row)
        if len(self._rows) >= self.batch:
            self.flush()

    def flush(self) -> None:
        if self._rows and self.see is not None:
            self.see(torch.from_numpy(np.stack(self._rows)))
        self._rows.clear()


class _Duplicates:
    """What is remembered of each image to know it again."""

    def __init__(self) -> None:
        self._first: dict[bytes, str] = {}
        self._again: dict[bytes, list[str]] = {}
        self._prints: list[tuple[str, Fingerprint]] = []
        self._plain: list[str] = []

    def add(self, name: str, digest: bytes, seen: Fingerprint) -> None:
        if digest in self._first:
            self._again.setdefault(digest, [self._first[digest]]).append(name)
            return
        self._first[digest] = name
        if seen.plain:
            self._plain.append(name)
        else:
            self._prints.append((name, seen))

    def found(self) -> tuple[Groups, Groups, tuple[str, ...]]:
        names = [name for name, _ in self._prints]
        near: Groups = ()
        if names:
            bits = np.array([seen.bits for _, seen in self._prints], np.uint64)
            joined = b"".join(seen.picture for _, seen in self._prints)
            near = duplicates.near(names, bits, np.frombuffer(joined, np.uint8).reshape(len(names), -1))
        return duplicates.ordered(self._again.values()), near, tuple(sorted(self._plain))


class _Tally:
    """The census while it is taken."""

    def __init__(self) -> None:
        self.images = 0
        self.broken: list[Broken] = []
        self._formats: Counter[str] = Counter()
        self._modes: Counter[str] = Counter()
        self._sizes: Counter[Size] = Counter()
        self._duplicates = _Duplicates()

    def add(self, one: _Seen | Broken) -> None:
        if isinstance(one, Broken):
            self.broken.append(one)
            return
        self.images += 1
        self._formats[one.stored.format] += 1
        self._modes[one.stored.mode] += 1
        self._sizes[one.stored.width, one.stored.height] += 1
        self._duplicates.add(one.name, one.digest, one.print)

    def census(self, preprocess: Preprocess | None) -> DatasetStatistics:
        exact, near, plain = self._duplicates.found()
        return DatasetStatistics(
            images=self.images,
            broken=tuple(sorted(self.broken, key=lambda one: one.name)),
            formats=dict(self._formats.most_common()),
            modes=dict(self._modes.most_common()),
            sizes=_sizes(self._sizes),
            enlarged=_smaller(self._sizes, preprocess) if preprocess is not None else None,
            exact=exact,
            near=near,
            plain=plain,
        )


def _smaller(counted: Counter[Size], preprocess: Preprocess) -> int:
    tall, wide = preprocess.resized
    return sum(count for (width, height), count in counted.items() if width < wide or height < tall)


def _sizes(counted: Counter[Size]) -> Sizes:
    by_area = sorted(counted, key=lambda size: (size[0] * size[1], size))
    behind, half = 0, counted.total() / 2
    median = by_area[-1]
    for size in by_area:
        behind += counted[size]
        if behind >= half:
            median = size
            break
    return Sizes(by_area[0], median, by_area[-1], len(counted), tuple(counted.most_common(_COMMON)))


def _nothing(source: Path, broken: list[Broken], suffixes: Counter[str]) -> ImagesError:
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(8))
    listed = "".join(f"\n  {one.name}: {one.reason}" for one in broken[:5])
    found = f"`{source}` gives no image that can be read. {suffixes.total()} files were looked at"
    read_ = ", ".join(suffix[1:] for suffix in SUFFIXES)
    return ImagesError(f"{found}{f' ({kinds})' if kinds else ''}.{listed}", f"Give {WANTED}; what is read: {read_}.")
