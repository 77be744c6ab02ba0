"""Many tensors of one shape in a file, read and written row by row.

Not mapped: pages of a mapped file count as the process's own memory for as long as nobody else wants it, and one that
meets a full disk ends the process without a word.
"""

import errno
import math
import os
import weakref
import zlib
from array import array
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from graftcli.store.atomic import writing


class Sums:
    """A checksum of each of many rows, and one of all of them."""

    def __init__(self, count: int) -> None:
        self._of = array("I", bytes(4 * count))

    def __getitem__(self, row: int) -> int:
        return self._of[row]

    def add(self, start: int, data: bytes | memoryview, row: int) -> None:
        """The sums of rows of `row` bytes each, from the number `start` on."""
        for place in range(len(data) // row):
            self._of[start + place] = zlib.crc32(data[place * row : (place + 1) * row])

    def of_file(self, path: Path, done: int, row: int) -> None:
        """The sums of the first rows of a file."""
        with path.open("rb") as file:
            for number in range(done):
                self._of[number] = zlib.crc32(file.read(row))

    def total(self, done: int) -> int:
        """One number for the first `done` rows."""
        return zlib.crc32(self._of[:done].tobytes())


class DamagedRow(Exception):
    """A row reads back as something else than was written."""

    def __init__(self, row: int) -> None:
        super().__init__(row)
        self.row = row


class RowFile:
    """A file of `count` rows, each of `shape`; the checksum of each is kept in memory and checked when it is read."""

    def __init__(self, path: Path, count: int, shape: Sequence[int], dtype: torch.dtype) -> None:
        self.path, self.count, self.shape, self.dtype = path, count, tuple(shape), dtype
        self.row = dtype.itemsize * math.prod(shape)
        self.is_whole = path.is_file() and path.stat().st_size == count * self.row
        self.sums = Sums(count)

    def restore(self, done: int, sums: int) -> bool:
        """Whether the first `done` rows in the file are what was written."""
        if not self.is_whole:
            return False
        self.sums.of_file(self.path, done, self.row)
        return self.sums.total(done) == sums

    def open(self) -> None:
        """Created where it is not whole, with its room on the disk."""
        if not self.is_whole:
            _make(self.path, self.count * self.row)
        self._file = os.open(self.path, os.O_RDWR)
        self.close = weakref.finalize(self, os.close, self._file)  # at the latest when nobody holds the rows any more

    def write(self, start: int, rows: Tensor) -> None:
        data, at = bytes_of(rows), start * self.row
        self.sums.add(start, data, self.row)
        with writing(self.path, len(data)):
            while data:
                written = os.pwrite(self._file, data, at)
                data, at = data[written:], at + written

    def read(self, index: Tensor) -> Tensor:
        found = torch.empty(len(index), *self.shape, dtype=self.dtype)
        data = bytes_of(found)
        for place, row in enumerate(index.tolist()):
            read = os.pread(self._file, self.row, row * self.row)
            if len(read) != self.row or zlib.crc32(read) != self.sums[row]:
                raise DamagedRow(row)
            data[place * self.row : (place + 1) * self.row] = read
        return found

    def sync(self) -> None:
        """What was written is on the disk, whatever happens to the machine."""
        os.fsync(self._file)


def bytes_of(tensor: Tensor) -> memoryview:
    """The tensor's own memory, where that is one piece; NumPy knows no bfloat16."""
    return tensor.contiguous().flatten().view(torch.uint8).numpy().data


def _make(path: Path, size: int) -> None:
    with writing(path, size):
        path.parent.mkdir(exist_ok=True)  # the folder of the run itself is not made again where it is gone
        try:
            with path.open("wb") as file:
                _reserve(file.fileno(), size)
        except OSError:
            path.unlink(missing_ok=True)  # what it has already would keep the disk full
            raise


def _reserve(file: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):  # not on macOS
        try:
            os.posix_fallocate(file, 0, size)
            return
        except OSError as fault:
            if fault.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # a file system that cannot
                raise
    os.truncate(file, size)
