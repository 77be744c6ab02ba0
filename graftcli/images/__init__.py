"""Folder -> images: found, checked, decoded once, kept as uint8.

Labels are unknown here, and no folder's or file's name changes a pixel or its place: the images stand in the order of
their files' SHA-256. A broken image is named and left out, never replaced by another.
"""

import hashlib
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graftcli.errors import ImagesError, MachineError
from graftcli.images.decoding import Broken, File, each
from graftcli.images.limits import SHARED, Limits
from graftcli.images.pixels import Preprocess, centre, decode, normalise
from graftcli.images.sources import SUFFIXES, WANTED, Entry, ImageSource, opened

__all__ = ["Broken", "Images", "Preprocess", "centre", "load", "normalise"]

SHOWN = 5  # broken images in a message that is not about all of them


@dataclass(frozen=True)
class Images:
    pixels: Tensor  # uint8 [images, channels, *fit.kept], in the order of the files' SHA-256
    names: tuple[str, ...]  # relative to the folder, with "/"
    broken: tuple[Broken, ...]  # in the order of their names
    files: frozenset[bytes]  # the SHA-256 of each
    digest: str  # SHA-256 over the sorted SHA-256 of the files in `pixels`: it knows no name and no order


@dataclass(frozen=True)
class _Decoded:
    row: int
    name: str
    digest: bytes


def load(
    source: Path,
    preprocess: Preprocess,
    *,
    strict: bool = False,
    jobs: int | None = None,
    most: int | None = None,
    limits: Limits = SHARED,
    on_progress: Callable[[int, int], None] | None = None,
) -> Images:
    """The images of a folder or archive, each decoded once, by `jobs` threads; `strict` refuses broken ones.

    Of more than `most` files, `most` are read, spread evenly over all. `limits` are those of decoding.

    `on_progress` hears (files done, files in all) after each file, in the calling thread.
    """
    with opened(source) as found:
        entries = found.entries
        if most is not None and len(entries) > most:
            entries = tuple(entries[index * len(entries) // most] for index in range(most))
        pixels = _room(len(entries), preprocess)
        results = _decoded(entries, pixels.numpy(), preprocess, jobs, limits, on_progress)
    broken = sorted((result for result in results if isinstance(result, Broken)), key=lambda one: one.name)
    good = sorted((r for r in results if isinstance(r, _Decoded)), key=lambda one: (one.digest, one.name))
    if strict and broken:
        raise _not_all(source, len(results), broken)
    if len(good) < 2:
        raise _too_few(source, found, len(good), broken)
    _arrange(pixels.numpy(), [one.row for one in good])
    digest = hashlib.sha256(b"".join(one.digest for one in good)).hexdigest()
    names, files = tuple(one.name for one in good), frozenset(one.digest for one in good)
    return Images(pixels[: len(good)], names, tuple(broken), files, digest)


def _room(count: int, preprocess: Preprocess) -> Tensor:
    shape = (count, preprocess.channels, *preprocess.kept)
    try:
        return torch.empty(shape, dtype=torch.uint8)
    except (RuntimeError, MemoryError) as error:
        size = f"{preprocess.kept[0]}x{preprocess.kept[1]}"
        found = f"{count} images of {size} need {math.prod(shape) / 1e9:,.1f} GB of memory"
        raise MachineError(f"{found}, more than this machine gives.", "Give fewer images or a smaller size.") from error


def _decoded(
    entries: Sequence[Entry],
    rows: NDArray[np.uint8],
    preprocess: Preprocess,
    jobs: int | None,
    limits: Limits,
    on_progress: Callable[[int, int], None] | None,
) -> list[_Decoded | Broken]:
    """What became of each entry, in their order; entry i is decoded into rows[i]."""
    results: list[_Decoded | Broken] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about odd metadata, mostly: what spoils the image is an exception
        for result in each(entries, partial(_settled, preprocess), jobs, limits):
            results.append(_placed(rows, result))
            if on_progress:
                on_progress(len(results), len(entries))
    return results


def _settled(preprocess: Preprocess, file: File) -> tuple[_Decoded, NDArray[np.uint8]]:
    pixels = decode(file.data, preprocess, file.allowance)
    return _Decoded(file.row, file.name, hashlib.sha256(file.data).digest()), pixels


def _placed(rows: NDArray[np.uint8], result: tuple[_Decoded, NDArray[np.uint8]] | Broken) -> _Decoded | Broken:
    """The result, its pixels in their row: by one thread, for one that was abandoned must not write any more."""
    if isinstance(result, Broken):
        return result
    decoded, rows[result[0].row] = result
    return decoded


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
    return ImagesError(found, "Fix or remove them; without --strict they are left out.")


def _too_few(source: Path, found: ImageSource, good: int, broken: Sequence[Broken]) -> ImagesError:
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
