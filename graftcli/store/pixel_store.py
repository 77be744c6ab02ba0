"""Decoded images in a memory-mapped file, for more images than memory holds.

pixels-KEY.rows       the images in the order of the source, during decoding
pixels-KEY.journal    the complete chunks of rows; a resumed run decodes the others
pixels-KEY.pixels     the images, sorted as `load` sorts them
pixels-KEY.index      their names and digests, and the digest of the pixels

KEY is a hash of the files (names, sizes, times) and of the preprocessing. A file gets its final name when it is
complete, and its digest is verified before use. Memory does not grow with the pixels; names and digests take a few
hundred bytes per image.
"""

import fcntl
import hashlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from graftcli.errors import MachineError
from graftcli.images import Images, Preprocess
from graftcli.images.decoding import Broken
from graftcli.images.loading import check_results
from graftcli.images.sources import SourceFiles
from graftcli.models.loading.tensor_file import Damaged
from graftcli.store.atomic import TEMPORARY, read_tensors, write_tensors, writing
from graftcli.store.pixel_chunks import Layout
from graftcli.store.pixel_decoding import DecodeOptions, decode_rows
from graftcli.store.pixel_process import state_of
from graftcli.store.pixel_table import PixelTable, names_of

_VERSION = 1  # of the files
_PARTS = (".rows", ".journal", ".pixels", ".index", ".lock")
_BLOCK = 2**24  # bytes that are read at once


def pixel_bytes(count: int, preprocess: Preprocess) -> int:
    """The bytes of this number of decoded images."""
    return count * int(np.prod((preprocess.channels, *preprocess.stored_size)))


def stored_images(
    folder: Path, source: str | Path, opened: SourceFiles, preprocess: Preprocess, options: DecodeOptions
) -> Images:
    """Decode the images of an open source into files in `folder`, or use the files that already exist."""
    state = state_of(opened.entries)
    key = hashlib.sha256(repr((_VERSION, state, preprocess)).encode()).hexdigest()[:16]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"pixels-{key}"
    images = _read(stem, preprocess, options.warn)  # without the lock: several processes may read at once
    if images is None:
        with _locked(stem.with_suffix(".lock")):
            layout = Layout(stem.with_suffix(".rows"), len(opened.entries), preprocess, options.chunk_bytes)
            table = decode_rows(source, opened, layout, state, options)
            check_results(source, opened, int(table.order.size), table.broken, strict=options.strict)
            _write_sorted(stem, layout, table)
            images = _read(stem, preprocess, options.warn)
            if images is None:
                found = f"`{stem}.pixels` reads back differently than it was written."
                raise MachineError(found, "The disk is faulty: choose another disk with --out.")
            _remove(stem, (".rows", ".journal"))
    check_results(source, opened, len(images.names), images.broken, strict=options.strict)
    return images


def discard(images: Images | None) -> None:
    """Remove the files of stored images; their pixels stay readable until the process ends."""
    if images is not None and images.store is not None:
        _remove(images.store.with_suffix(""), _PARTS)


def _remove(stem: Path, suffixes: Sequence[str]) -> None:
    for suffix in suffixes:
        with suppress(OSError):
            stem.with_suffix(suffix).unlink()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file, and remove it at the end."""
    with writing(path), path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            found = f"another process is decoding the same images into `{path.parent}`."
            raise MachineError(found, "Wait for it to end, or choose another folder with --out.") from error
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _write_sorted(stem: Path, layout: Layout, table: PixelTable) -> None:
    """Write the rows in their final order, then the index with their digest."""
    target = stem.with_suffix(".pixels")
    temporary = target.with_name(f".{target.name}.{os.getpid()}{TEMPORARY}")
    digest, count = hashlib.sha256(), int(table.order.size)
    try:
        with writing(target, count * layout.row_bytes), layout.path.open("rb") as rows, temporary.open("wb") as file:
            for row in table.order.tolist():
                data = os.pread(rows.fileno(), layout.row_bytes, row * layout.row_bytes)
                digest.update(data)
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    facts = {"pixels": digest.hexdigest(), "short_side": table.short_side}
    facts |= {"broken": [[one.name, one.reason] for one in table.broken]}
    write_tensors(stem.with_suffix(".index"), table.tensors(), facts)


def _read(stem: Path, preprocess: Preprocess, warn: Callable[[str], None]) -> Images | None:
    """The stored images; None if there are none, or if they are damaged."""
    index, pixels = stem.with_suffix(".index"), stem.with_suffix(".pixels")
    if not index.is_file() or not pixels.is_file():
        return None
    try:
        tensors, facts = read_tensors(index)
    except Damaged:
        warn(f"`{index}` is damaged: its images are decoded from scratch")
        return None
    digests = tensors["digests"].numpy()
    if pixels.stat().st_size != pixel_bytes(len(digests), preprocess) or _digest_of(pixels) != facts["pixels"]:
        warn(f"`{pixels}` is damaged: its images are decoded from scratch")
        return None
    return Images(
        _mapped(pixels, (len(digests), preprocess.channels, *preprocess.stored_size)),
        names=names_of(tensors),
        broken=tuple(Broken(*one) for one in cast(list[list[str]], facts["broken"])),
        files=digests.view("S32")[:, 0],
        digest=hashlib.sha256(digests.data).hexdigest(),
        short_side=cast(int, facts["short_side"]),
        store=pixels,
    )


def _digest_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(_BLOCK):
            digest.update(data)
    return digest.hexdigest()


def _mapped(path: Path, shape: tuple[int, ...]) -> Tensor:
    """Map the file to a read-only tensor."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about every read-only array
        return torch.from_numpy(np.memmap(path, np.uint8, "r", shape=shape))
