"""Many tensors of one shape in a file, read and written row by row.

Not mapped: pages of a mapped file count as the process's own memory for as long as nobody else wants it, and one that
meets a full disk ends the process without a word.
"""

import errno
import math
import os
import weakref
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from graftcli.store.written import writing


class Rows:
    """A file of `count` rows, each of `shape`."""

    def __init__(self, path: Path, count: int, shape: Sequence[int], dtype: torch.dtype) -> None:
        self.path, self.count, self.shape, self.dtype = path, count, tuple(shape), dtype
        self.row = dtype.itemsize * math.prod(shape)
        self.is_whole = path.is_file() and path.stat().st_size == count * self.row

    def open(self) -> None:
        """Made anew where it is not whole, with its room on the disk."""
        if not self.is_whole:
            _make(self.path, self.count * self.row)
        self._file = os.open(self.path, os.O_RDWR)
        self.close = weakref.finalize(self, os.close, self._file)  # at the latest when nobody holds the rows any more

    def write(self, start: int, rows: Tensor) -> None:
        data, at = bytes_of(rows), start * self.row
        with writing(self.path, len(data)):
            while data:
                written = os.pwrite(self._file, data, at)
                data, at = data[written:], at + written

    def read(self, index: Tensor) -> Tensor:
        found = torch.empty(len(index), *self.shape, dtype=self.dtype)
        data = bytes_of(found)
        for place, row in enumerate(index.tolist()):
            read = os.pread(self._file, self.row, row * self.row)
            if len(read) != self.row:
                raise EOFError(f"{self.path} ends within row {row}")
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
        path.parent.mkdir(parents=True, exist_ok=True)
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
