"""Load a folder or an archive of images as uint8 pixels.

Labels are not used, and names affect neither pixels nor order: images are sorted by the SHA-256 of their files. A file
that cannot be read is reported and skipped, never replaced by another.
"""

import hashlib
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median_low

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graftcli.errors import ImagesError, MachineError
from graftcli.images.decoding import Broken, File, process_files
from graftcli.images.limits import DEFAULT_LIMITS, Limits
from graftcli.images.pixels import open_image, resize_and_crop
from graftcli.images.preprocess import Preprocess
from graftcli.images.sources import SUPPORTED, Entry, SourceFiles, open_source

_LISTED = 5  # broken images in a message that is not about all of them


@dataclass(frozen=True)
class Images:
    """Decoded images, each once."""

    pixels: Tensor  # uint8 [images, channels, *preprocess.stored_size], sorted by the SHA-256 of the files
    names: Sequence[str]  # relative to the folder, with "/"
    broken: tuple[Broken, ...]  # sorted by name
    files: NDArray[np.bytes_]  # the SHA-256 of each file, sorted
    digest: str  # SHA-256 over the sorted SHA-256 of the files in `pixels`; independent of names and order
    short_side: int | None = None  # median over the files, in pixels; None if unknown
    store: Path | None = None  # the memory-mapped file that holds the pixels; None if they are in memory

    def shared_with(self, other: "Images") -> int:
        """The number of different files that both contain."""
        return len(np.intersect1d(self.files, other.files))


@dataclass(frozen=True)
class Decoded:
    """An image that was decoded into a row."""

    row: int
    name: str
    digest: bytes
    short_side: int  # of the file's image


def load(
    source: str | Path,
    preprocess: Preprocess,
    *,
    strict: bool = False,
    jobs: int | None = None,
    max_images: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
    on_progress: Callable[[int, int], None] | None = None,
) -> Images:
    """Decode the images of a folder or archive, each once.

    Args:
        strict: Raise ImagesError if any image is broken.
        jobs: Decoding threads. Default: the usable cores.
        max_images: Read this many files at most, spread evenly over all.
        limits: Memory and time for decoding.
        on_progress: Called with (files done, all files) after each file, in the calling thread.
    """
    with open_source(source) as opened:
        if max_images is not None and len(opened.entries) > max_images:
            count = len(opened.entries)
            opened = opened.chosen([index * count // max_images for index in range(max_images)])
        return load_opened(source, opened, preprocess, strict=strict, jobs=jobs, limits=limits, on_progress=on_progress)


def load_opened(
    source: str | Path,
    opened: SourceFiles,
    preprocess: Preprocess,
    *,
    strict: bool = False,
    jobs: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
    on_progress: Callable[[int, int], None] | None = None,
) -> Images:
    """Decode the images of an open source into memory, as `load` does."""
    pixels = _allocate(len(opened.entries), preprocess)
    results = _decode_all(opened.entries, pixels.numpy(), preprocess, jobs, limits, on_progress)
    broken = sorted((result for result in results if isinstance(result, Broken)), key=lambda image: image.name)
    decoded = sorted((r for r in results if isinstance(r, Decoded)), key=lambda image: (image.digest, image.name))
    check_results(source, opened, len(decoded), broken, strict=strict)
    _reorder(pixels.numpy(), [image.row for image in decoded])
    digests = [image.digest for image in decoded]
    return Images(
        pixels[: len(decoded)],
        names=tuple(image.name for image in decoded),
        broken=tuple(broken),
        files=np.array(digests, "S32"),
        digest=hashlib.sha256(b"".join(digests)).hexdigest(),
        short_side=median_low(image.short_side for image in decoded),
    )


def check_results(
    source: str | Path, opened: SourceFiles, decoded: int, broken: Sequence[Broken], *, strict: bool
) -> None:
    """Raise ImagesError for fewer than two images, or with `strict` for a broken one."""
    if strict and broken:
        raise _broken_images(source, decoded + len(broken), broken)
    if decoded < 2:
        raise _too_few(source, opened, decoded, broken)


def _allocate(count: int, preprocess: Preprocess) -> Tensor:
    shape = (count, preprocess.channels, *preprocess.stored_size)
    try:
        return torch.empty(shape, dtype=torch.uint8)
    except (RuntimeError, MemoryError) as error:
        size = f"{preprocess.stored_size[0]}x{preprocess.stored_size[1]}"
        needed = f"{count} images of {size} need {math.prod(shape) / 1e9:,.1f} GB of memory"
        raise MachineError(
            f"{needed}, which this machine cannot provide.", "Give fewer images or a smaller size."
        ) from error


def _decode_all(
    entries: Sequence[Entry],
    rows: NDArray[np.uint8],
    preprocess: Preprocess,
    jobs: int | None,
    limits: Limits,
    on_progress: Callable[[int, int], None] | None,
) -> list[Decoded | Broken]:
    """Decode entry i into rows[i], and return one result per entry, in order."""
    results: list[Decoded | Broken] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # most warnings are about unusual metadata; real damage raises
        for result in process_files(entries, partial(decode_file, preprocess), jobs, limits):
            results.append(_store(rows, result))
            if on_progress:
                on_progress(len(results), len(entries))
    return results


def decode_file(preprocess: Preprocess, file: File) -> tuple[Decoded, NDArray[np.uint8]]:
    """Decode a file; return its facts and its pixels."""
    with open_image(file.data, preprocess.channels, preprocess, file.allowance) as image:
        pixels, stored = resize_and_crop(image, preprocess), image.stored
    digest = hashlib.sha256(file.data).digest()
    return Decoded(file.row, file.name, digest, min(stored.width, stored.height)), pixels


def _store(rows: NDArray[np.uint8], result: tuple[Decoded, NDArray[np.uint8]] | Broken) -> Decoded | Broken:
    """Write the pixels into their row. Called by one thread, so that an abandoned worker never writes."""
    if isinstance(result, Broken):
        return result
    decoded, rows[result[0].row] = result
    return decoded


def _reorder(rows: NDArray[np.uint8], order: Sequence[int]) -> None:
    """Move rows[order[i]] to rows[i], in place: a second copy of all images might not fit in memory."""
    order = [*order, *sorted(set(range(len(rows))) - set(order))]
    placed = [False] * len(order)
    for first in range(len(order)):
        if placed[first]:
            continue
        saved, current = rows[first].copy(), first
        while order[current] != first:
            rows[current], placed[current] = rows[order[current]], True
            current = order[current]
        rows[current], placed[current] = saved, True


def _broken_images(source: str | Path, count: int, broken: Sequence[Broken]) -> ImagesError:
    message = f"{len(broken)} of {count} images under `{source}` cannot be read:\n{_lines(broken)}"
    return ImagesError(message, "Fix or remove them, or run without --strict to skip them.")


def _too_few(source: str | Path, opened: SourceFiles, count: int, broken: Sequence[Broken]) -> ImagesError:
    """The error for too few images; it counts the files by suffix, so that a wrong folder is obvious."""
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in opened.suffixes.most_common(8))
    checked = f"{opened.suffixes.total()} files were checked" + (f" ({kinds})" if kinds else "")
    more = f"\n  and {len(broken) - _LISTED} more" if len(broken) > _LISTED else ""
    listed = f"\n{_lines(broken[:_LISTED])}{more}" if broken else ""
    readable = {0: "no readable image", 1: "only one readable image"}[count]
    return ImagesError(f"`{source}` holds {readable}; at least two are needed. {checked}.{listed}", SUPPORTED)


def _lines(broken: Sequence[Broken]) -> str:
    return "\n".join(f"  {image.name}: {image.reason}" for image in broken)
