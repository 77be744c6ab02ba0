"""Many tensors of one shape in a file, read and written row by row.

The file is not memory-mapped: mapped pages count as memory of the process, and writing one to a full disk kills the
process without an error message.
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


class Checksums:
    """A checksum of each row, and one of the first rows together."""

    def __init__(self, count: int) -> None:
        self._rows = array("I", bytes(4 * count))

    def __getitem__(self, row: int) -> int:
        return self._rows[row]

    def add(self, start: int, data: bytes | memoryview, row_bytes: int) -> None:
        """Compute the checksums of the rows in `data`; the first one is row `start`."""
        for index in range(len(data) // row_bytes):
            self._rows[start + index] = zlib.crc32(data[index * row_bytes : (index + 1) * row_bytes])

    def add_file(self, path: Path, done: int, row_bytes: int) -> None:
        """Compute the checksums of the first `done` rows of a file."""
        with path.open("rb") as file:
            for index in range(done):
                self._rows[index] = zlib.crc32(file.read(row_bytes))

    def total(self, done: int) -> int:
        """The checksum of the first `done` rows."""
        return zlib.crc32(self._rows[:done].tobytes())


class DamagedRow(Exception):
    """A row reads back differently than it was written."""

    def __init__(self, row: int) -> None:
        super().__init__(row)
        self.row = row


class RowFile:
    """A file of `count` rows of `shape`; the checksum of each row is kept in memory and verified when it is read."""

    def __init__(self, path: Path, count: int, shape: Sequence[int], dtype: torch.dtype) -> None:
        self.path, self.count, self.shape, self.dtype = path, count, tuple(shape), dtype
        self.row_bytes = dtype.itemsize * math.prod(shape)
        self.is_complete = path.is_file() and path.stat().st_size == count * self.row_bytes
        self.checksums = Checksums(count)

    def restore(self, done: int, checksum: int) -> bool:
        """Read the checksums of the first `done` rows; returns whether the rows are intact."""
        if not self.is_complete:
            return False
        self.checksums.add_file(self.path, done, self.row_bytes)
        return self.checksums.total(done) == checksum

    def open(self) -> None:
        """Open the file; if it is not complete, create it with its disk space reserved."""
        if not self.is_complete:
            _create(self.path, self.count * self.row_bytes)
        self._file = os.open(self.path, os.O_RDWR)
        self.close = weakref.finalize(self, os.close, self._file)  # at the latest when the object is garbage-collected

    def write(self, start: int, rows: Tensor) -> None:
        """Write consecutive rows; the first one is row `start`."""
        data, offset = bytes_of(rows), start * self.row_bytes
        self.checksums.add(start, data, self.row_bytes)
        with writing(self.path, len(data)):
            while data:
                written = os.pwrite(self._file, data, offset)
                data, offset = data[written:], offset + written

    def read(self, index: Tensor) -> Tensor:
        """Read the rows at `index`; raises DamagedRow."""
        rows = torch.empty(len(index), *self.shape, dtype=self.dtype)
        data, size = bytes_of(rows), self.row_bytes
        for position, row in enumerate(index.tolist()):
            row_data = os.pread(self._file, size, row * size)
            if len(row_data) != size or zlib.crc32(row_data) != self.checksums[row]:
                raise DamagedRow(row)
            data[position * size : (position + 1) * size] = row_data
        return rows

    def sync(self) -> None:
        """Flush written rows to the disk."""
        os.fsync(self._file)


def bytes_of(tensor: Tensor) -> memoryview:
    """The tensor's bytes, without a copy if it is contiguous and on the CPU.

    It is viewed as uint8, because NumPy has no bfloat16.
    """
    return tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data


def _create(path: Path, size: int) -> None:
    with writing(path, size):
        path.parent.mkdir(exist_ok=True)  # without parents, so that a removed run folder is not recreated
        try:
            with path.open("wb") as file:
                reserve(file.fileno(), size)
        except OSError:
            path.unlink(missing_ok=True)  # free the space that was already reserved
            raise


def reserve(file: int, size: int) -> None:
    """Give an empty file its size and, where the system can, its disk space."""
    if hasattr(os, "posix_fallocate"):  # not on macOS
        try:
            os.posix_fallocate(file, 0, size)
            return
        except OSError as fault:
            if fault.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # not supported by the file system
                raise
    os.truncate(file, size)
