"""What the teacher says of each view, at each cut: seen once, then remembered in memory or in a mapped file.

Value 0 is the view itself, value k what block k hands on, value L the last feature map, value L+1 the logits, where L
is the number of blocks. What is not remembered is computed again from the nearest value before it that is.
"""

import errno
import math
import mmap
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from graftcli.graft.diary import Diary
from graftcli.graft.views import Views
from graftcli.store.written import writing

Place = Literal["memory", "disk", "again"]

_MAPPED_BYTES = 2**28  # that are read or written before mapped pages are let go: they lie in their file


class Answers:
    def __init__(
        self,
        views: Views,
        pieces: Sequence[nn.Module],
        shapes: Sequence[tuple[int, ...]],
        places: Mapping[int, Place],
        *,
        folder: Path,
        name: str = "value",
        chunk: int,
        device: torch.device,
    ) -> None:
        """`pieces[k-1]` makes value k out of value k-1; `shapes[k-1]` is its shape; `name` is that of its files."""
        self.views, self.pieces, self.shapes, self.places = views, pieces, shapes, places
        self.folder, self.name, self.chunk, self.device = folder, name, chunk, device
        self._kept: dict[int, Tensor] = {}
        self._maps: dict[int, mmap.mmap] = {}  # of those that are kept on the disk
        self._touched = 0

    def look(self, wanted: Collection[int], looked: Callable[[int, int], None]) -> None:
        """Show every view to the teacher, once, and remember what the `wanted` values are made of.

        A look that was broken off goes on.
        """
        for value in sorted({self._base(value) for value in wanted} - {0}):
            shape = (len(self.views), *self.shapes[value - 1])
            if self.places[value] == "memory":
                self._kept[value] = torch.empty(shape)
                continue
            file, size = self.folder / f"{self.name}-{value}.bin", 4 * math.prod(shape)
            if not file.is_file() or file.stat().st_size != size:
                Diary.tear_out(self.folder, self.name)
                _make(file, size)
            self._maps[value] = _mapped(file, size)
            self._kept[value] = torch.frombuffer(self._maps[value], dtype=torch.float32).view(shape)
        if not self._kept:
            return
        mapped = [value for value in self._kept if self.places[value] == "disk"]
        diary = Diary(self.folder, self.name, self._kept, mapped)
        done = diary.restore()
        looked(done, len(self.views))
        for start in range(done, len(self.views), self.chunk):
            indices = torch.arange(start, min(start + self.chunk, len(self.views)))
            value_now = self.views.normalised(indices).to(self.device)
            for k in range(1, max(self._kept) + 1):
                value_now = self._next(k, value_now)
                if k in self._kept:
                    self._kept[k][indices] = value_now.float().cpu()
                    self._touch(k, len(indices))
            done = int(indices[-1]) + 1
            diary.keep(done)
            looked(done, len(self.views))
        diary.keep(done, last=True)

    def at(self, value: int, index: Tensor) -> Tensor:
        """The given value of some views, on the device."""
        base = self._base(value)
        found = self._kept[base][index] if base else self.views.normalised(index)
        self._touch(base, len(index))
        found = found.to(self.device)
        for k in range(base + 1, value + 1):
            found = self._next(k, found)
        return found

    def forget(self, wanted: Collection[int]) -> None:
        """Give back the memory of everything that the values still `wanted` are not made of."""
        bases = {self._base(value) for value in wanted}
        for value in [k for k in self._kept if k not in bases]:
            del self._kept[value]
            self._maps.pop(value, None)

    def _touch(self, value: int, rows: int) -> None:
        """Mapped pages would count as this process's memory as long as nobody else wants it."""
        if value not in self._maps:
            return
        self._touched += rows * self._kept[value][0].nbytes
        if self._touched > _MAPPED_BYTES and hasattr(mmap, "MADV_DONTNEED"):
            for one in self._maps.values():
                one.madvise(mmap.MADV_DONTNEED)  # of a shared map: what was written stays in the file
            self._touched = 0

    def _base(self, value: int) -> int:
        """The remembered value that a value is made of, which depends on nothing that changes during a run: a resumed
        run adds up the same numbers in the same order."""
        return max((k for k, place in self.places.items() if k <= value and place != "again"), default=0)

    @torch.no_grad()
    def _next(self, k: int, value: Tensor) -> Tensor:
        result: Tensor = self.pieces[k - 1](value)
        return result


def _mapped(path: Path, size: int) -> mmap.mmap:
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), size)


def _make(path: Path, size: int) -> None:
    """A file with room on the disk, now: a mapped one that meets a full disk later ends the process without a word."""
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


def size_of(value: int, shapes: Sequence[tuple[int, ...]], views: int) -> int:
    """The bytes that a value takes up for all views."""
    return 4 * views * math.prod(shapes[value - 1])


def choose_places(
    wanted: Collection[int], shapes: Sequence[tuple[int, ...]], views: int, rooms: Sequence[tuple[Place, int]]
) -> dict[int, Place]:
    """Where each wanted value is remembered: the smallest first, in the first of the `rooms` that has bytes for it."""
    places: dict[int, Place] = {}
    left = [size for _, size in rooms]
    for value in sorted(wanted, key=lambda k: math.prod(shapes[k - 1])):
        size = size_of(value, shapes, views)
        fitting = next((i for i, free in enumerate(left) if size <= free), None)
        if fitting is None:
            places[value] = "again"
        else:
            places[value] = rooms[fitting][0]
            left[fitting] -= size
    return places
