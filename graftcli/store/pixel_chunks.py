"""Decode images chunk by chunk into the rows of a file, with a journal of the chunks that are complete.

A chunk is decoded, written, flushed to the disk, and then recorded with a digest of its rows. If the process is killed
at any moment, the journal therefore lists only complete chunks, and a resumed run decodes the others.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import numpy as np
from numpy.typing import NDArray

from graftcli.images.decoding import Broken, process_files
from graftcli.images.limits import DEFAULT_LIMITS, Limits
from graftcli.images.loading import Decoded, decode_file
from graftcli.images.preprocess import Preprocess
from graftcli.images.sources import Files
from graftcli.store.atomic import writing

CHUNK_BYTES = 2**25  # bytes of the pixels of a chunk

Report = Callable[[int], None]


@dataclass(frozen=True)
class Layout:
    """The file of decoded rows: one row per entry of the source, in its order."""

    path: Path
    count: int
    preprocess: Preprocess
    chunk_bytes: int = CHUNK_BYTES

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height and width of an image."""
        return (self.preprocess.channels, *self.preprocess.stored_size)

    @property
    def row_bytes(self) -> int:
        """The bytes of an image."""
        return int(np.prod(self.shape))

    @property
    def chunk_rows(self) -> int:
        """The number of images per chunk; the last one may have fewer."""
        return max(1, self.chunk_bytes // self.row_bytes)

    @property
    def chunks(self) -> int:
        """The number of chunks."""
        return -(-self.count // self.chunk_rows)

    def rows(self, chunk: int) -> range:
        """The rows of a chunk."""
        start = chunk * self.chunk_rows
        return range(start, min(self.count, start + self.chunk_rows))


@dataclass(frozen=True)
class Chunk:
    """A decoded chunk: the digest of its rows in the file, and the result for each entry."""

    number: int
    digest: str
    results: tuple[Decoded | Broken, ...]

    def to_json(self) -> str:
        """One line of JSON."""
        results = [
            [one.name, one.reason] if isinstance(one, Broken) else [one.name, one.digest.hex(), one.short_side]
            for one in self.results
        ]
        return json.dumps([self.number, self.digest, results])

    @classmethod
    def from_json(cls, line: str | bytes, layout: Layout) -> "Chunk":
        """Read a line of JSON; raises ValueError, KeyError or TypeError if it is damaged."""
        number, digest, results = json.loads(line)
        rows = layout.rows(number)
        if len(results) != len(rows):
            raise ValueError(f"chunk {number} has {len(results)} results for {len(rows)} rows")
        found = zip(rows, results, strict=True)
        return cls(number, digest, tuple(_result(row, one) for row, one in found))


def _result(row: int, fields: list[Any]) -> Decoded | Broken:
    if len(fields) == 2:
        return Broken(*fields)
    name, digest, short_side = fields
    return Decoded(row, name, bytes.fromhex(digest), short_side)


def decode_chunk(
    layout: Layout,
    files: Files,
    number: int,
    *,
    jobs: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
    report: Report = lambda _: None,
) -> Chunk:
    """Decode the images of a chunk and write them to the disk; `report` is called with 1 for each image."""
    rows = layout.rows(number)
    pixels, results = np.zeros((len(rows), *layout.shape), np.uint8), list[Decoded | Broken]()
    with catch_warnings():
        simplefilter("ignore")  # most warnings are about unusual metadata; real damage raises
        decode = partial(decode_file, layout.preprocess)
        for result in process_files(files[rows.start : rows.stop], decode, jobs, limits):
            if isinstance(result, Broken):
                results.append(result)
            else:
                decoded, pixels[result[0].row] = result
                results.append(replace(decoded, row=rows.start + decoded.row))
            report(1)
    _write(layout, rows.start, pixels)
    return Chunk(number, hashlib.sha256(pixels.data).hexdigest(), tuple(results))


def _write(layout: Layout, start: int, pixels: NDArray[np.uint8]) -> None:
    data, offset = pixels.data.cast("B"), start * layout.row_bytes
    with writing(layout.path, len(data)):
        file = os.open(layout.path, os.O_RDWR)
        try:
            while data:
                written = os.pwrite(file, data, offset)
                data, offset = data[written:], offset + written
            os.fsync(file)
        finally:
            os.close(file)


class Journal:
    """The file that records complete chunks, one line each."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self.path, self.layout = path, layout

    def read(self) -> Iterator[Chunk]:
        """Iterate over the chunks that are recorded and whose rows are intact, each once."""
        found: set[int] = set()
        for chunk in self._recorded():
            if chunk.number not in found and self._is_intact(chunk):
                found.add(chunk.number)
                yield chunk

    def _recorded(self) -> Iterator[Chunk]:
        if not self.path.is_file() or not self.layout.path.is_file():
            return
        with self.path.open("rb") as file:
            for line in file:
                with suppress(ValueError, KeyError, TypeError, IndexError):  # an incomplete line
                    yield Chunk.from_json(line, self.layout)

    def _is_intact(self, chunk: Chunk) -> bool:
        rows = self.layout.rows(chunk.number)
        with self.layout.path.open("rb") as file:
            file.seek(rows.start * self.layout.row_bytes)
            data = file.read(len(rows) * self.layout.row_bytes)
        return hashlib.sha256(data).hexdigest() == chunk.digest

    def add(self, chunk: Chunk) -> None:
        """Record a complete chunk."""
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(f"\n{chunk.to_json()}\n")  # starts a new line, in case the last one is incomplete
            file.flush()
            os.fsync(file.fileno())
