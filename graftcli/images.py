"""Folder -> images: found, checked, decoded once, kept as uint8.

Labels are unknown here, and no folder's or file's name changes a pixel or its place: the images stand in the order of
their files' SHA-256. A broken image is named and left out, never replaced by another.
"""

import hashlib
import math
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from graftcli.errors import ImagesError, MachineError
from graftcli.pixels import FORMATS, Fit, centre, decode, normalise
from graftcli.sources import FOREIGN, SUFFIXES, WANTED, Entry, Refused, Source, opened

__all__ = ["Broken", "Fit", "Images", "centre", "load", "normalise"]

SHOWN = 5  # broken images in a message that is not about all of them


@dataclass(frozen=True)
class Broken:
    name: str
    reason: str


@dataclass(frozen=True)
class Images:
    pixels: Tensor  # uint8 [images, channels, *fit.kept], in the order of the files' SHA-256
    names: tuple[str, ...]  # relative to the folder, with "/"
    broken: tuple[Broken, ...]  # in the order of their names
    digest: str  # SHA-256 over the sorted SHA-256 of the files in `pixels`: it knows no name and no order


@dataclass(frozen=True)
class _File:
    row: int
    name: str
    data: bytes


@dataclass(frozen=True)
class _Decoded:
    row: int
    name: str
    digest: bytes


def load(
    source: Path,
    fit: Fit,
    *,
    strict: bool = False,
    jobs: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Images:
    """The images of a folder or archive, each decoded once, by `jobs` threads; `strict` refuses broken ones.

    `on_progress` hears (files done, files in all) after each file, in the calling thread.
    """
    with opened(source) as found:
        pixels = _room(len(found.entries), fit)
        results = _decoded(found.entries, pixels.numpy(), fit, jobs, on_progress)
    broken = sorted((result for result in results if isinstance(result, Broken)), key=lambda one: one.name)
    good = sorted((r for r in results if isinstance(r, _Decoded)), key=lambda one: (one.digest, one.name))
    if strict and broken:
        raise _not_all(source, len(results), broken)
    if len(good) < 2:
        raise _too_few(source, found, len(good), broken)
    _arrange(pixels.numpy(), [one.row for one in good])
    digest = hashlib.sha256(b"".join(one.digest for one in good)).hexdigest()
    return Images(pixels[: len(good)], tuple(one.name for one in good), tuple(broken), digest)


def _room(count: int, fit: Fit) -> Tensor:
    shape = (count, fit.channels, *fit.kept)
    try:
        return torch.empty(shape, dtype=torch.uint8)
    except (RuntimeError, MemoryError) as error:
        found = f"{count} images of {fit.kept[0]}x{fit.kept[1]} need {math.prod(shape) / 1e9:,.1f} GB of memory"
        raise MachineError(f"{found}, more than this machine gives.", "Give fewer images or a smaller size.") from error


def _decoded(
    entries: Sequence[Entry],
    rows: NDArray[np.uint8],
    fit: Fit,
    jobs: int | None,
    on_progress: Callable[[int, int], None] | None,
) -> list[_Decoded | Broken]:
    """What became of each entry, in their order; entry i is decoded into rows[i]."""
    workers = _cores() if jobs is None else max(1, jobs)
    results = []
    Image.init()  # here, because it is not made for several threads at once
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        warnings.simplefilter("ignore")  # about odd metadata, mostly: what spoils the image is an exception
        files = (_fetched(row, entry) for row, entry in enumerate(entries))
        for result in _in_order(pool, partial(_settled, rows, fit), files, ahead=2 * workers):
            results.append(result)
            if on_progress:
                on_progress(len(results), len(entries))
    return results


def _cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(16, cores)


def _in_order(
    pool: ThreadPoolExecutor,
    work: Callable[[_File | Broken], _Decoded | Broken],
    files: Iterable[_File | Broken],
    ahead: int,
) -> Iterator[_Decoded | Broken]:
    """map(work, files), with no more than `ahead` of the files in memory."""
    waiting: deque[Future[_Decoded | Broken]] = deque()
    for file in files:
        waiting.append(pool.submit(work, file))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _fetched(row: int, entry: Entry) -> _File | Broken:
    if entry.name.lower().endswith(FOREIGN):
        return Broken(entry.name, "this kind of file is not read: convert it to PNG or JPEG")
    try:
        return _File(row, entry.name, entry.read())
    except MemoryError as error:
        raise _no_memory(entry.name) from error
    except Refused as refusal:
        return Broken(entry.name, str(refusal))
    except Exception as error:  # a damaged archive raises whatever its damage leads to
        return Broken(entry.name, f"its bytes cannot be read ({error})")


def _settled(rows: NDArray[np.uint8], fit: Fit, file: _File | Broken) -> _Decoded | Broken:
    if isinstance(file, Broken):
        return file
    try:
        rows[file.row] = decode(file.data, fit)
    except MemoryError as error:
        raise _no_memory(file.name) from error
    except Exception as error:  # damaged bytes lead a decoder to any exception there is
        return Broken(file.name, _reason(error, file.data))
    return _Decoded(file.row, file.name, hashlib.sha256(file.data).digest())


def _no_memory(name: str) -> MachineError:
    return MachineError(f"memory ran out while reading `{name}`.", "Free memory, or read with fewer --jobs.")


def _reason(error: Exception, data: bytes) -> str:
    if not data:
        return "the file is empty"
    if isinstance(error, UnidentifiedImageError):
        return f"it is damaged or none of {', '.join(FORMATS)}; it begins with {data[:12]!r}"
    if isinstance(error, Refused | Image.DecompressionBombError):
        return str(error)
    if "truncated" in str(error).lower():
        return f"it ends too early ({error})"
    return f"its data is damaged ({type(error).__name__}: {error})"


def _arrange(rows: NDArray[np.uint8], order: Sequence[int]) -> None:
    """rows[i] becomes what rows[order[i]] was, moved in place: a second copy of all images might not fit."""
    order = [*order, *sorted(set(range(len(rows))) - set(order))]
    placed = [False] * len(order)
    for first in range(len(order)):
        if placed[first]:
            continue
        held, here = rows[first].copy(), first
        while order[here] != first:
            rows[here], placed[here] = rows[order[here]], True
            here = order[here]
        rows[here], placed[here] = held, True


def _not_all(source: Path, count: int, broken: Sequence[Broken]) -> ImagesError:
    found = f"{len(broken)} of {count} images under `{source}` cannot be read:\n{_lines(broken)}"
    return ImagesError(found, "Mend or remove them; without --strict they are left out.")


def _too_few(source: Path, found: Source, good: int, broken: Sequence[Broken]) -> ImagesError:
    """Says what was looked at, so that a wrong folder is seen at once."""
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in found.suffixes.most_common(8))
    looked = f"{found.suffixes.total()} files were looked at" + (f" ({kinds})" if kinds else "")
    more = f"\n  and {len(broken) - SHOWN} more" if len(broken) > SHOWN else ""
    listed = f"\n{_lines(broken[:SHOWN])}{more}" if broken else ""
    counted = {0: "no image", 1: "only one image"}[good]
    read = ", ".join(suffix[1:] for suffix in SUFFIXES)
    return ImagesError(
        f"`{source}` gives {counted} that can be read; two at least are needed. {looked}.{listed}",
        f"Give {WANTED}; what is read: {read}.",
    )


def _lines(broken: Sequence[Broken]) -> str:
    return "\n".join(f"  {one.name}: {one.reason}" for one in broken)
