"""Cached teacher features of each view, at each cut: computed once, then kept in memory or in a file.

Value 0 is the view itself, value k what block k hands on, value L the last feature map, value L+1 the logits, where L
is the number of blocks. What is not kept is computed again from the nearest value before it that is. Where a value is
kept changes no bit of it on a CPU: the teacher always computes `chunk` views at once, whatever is asked of it.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from graftcli.graft.backend.precision import Precision
from graftcli.graft.data.views import Views
from graftcli.store.cache_files import Cache
from graftcli.store.row_file import DamagedRow, RowFile

Place = Literal["memory", "disk", "again"]


class TeacherCache:
    def __init__(
        self,
        views: Views,
        pieces: Sequence[nn.Module],
        shapes: Sequence[tuple[int, ...]],
        places: Mapping[int, Place],
        *,
        cache: Cache,
        name: str = "value",
        chunk: int,
        precision: Precision,
    ) -> None:
        """`pieces[k-1]` makes value k out of value k-1; `shapes[k-1]` is its shape; `name` is that of its files."""
        self.views, self.pieces, self.shapes, self.places = views, pieces, shapes, places
        self.cache, self.name, self.chunk, self.precision = cache, name, chunk, precision
        self._kept: dict[int, Tensor] = {}
        self._files: dict[int, RowFile] = {}

    def look(self, wanted: Collection[int], looked: Callable[[int, int], None]) -> None:
        """Pass every view through the teacher, once, and keep what the `wanted` values are made of.

        A pass that was interrupted is resumed.
        """
        for value in sorted({self._base(value) for value in wanted} - {0}):
            shape = self.shapes[value - 1]
            if self.places[value] == "memory":
                self._kept[value] = torch.empty(len(self.views), *shape, dtype=self.precision.dtype)
            else:
                self._files[value] = self.cache.rows(
                    f"{self.name}-{value}", len(self.views), shape, self.precision.dtype
                )
        if not self._kept and not self._files:
            return
        diary = self.cache.diary(self.name, self._kept, self._files)
        done = diary.restore()
        for rows in self._files.values():
            rows.open()
        looked(done, len(self.views))
        for start in range(done, len(self.views), self.chunk):
            indices = torch.arange(start, min(start + self.chunk, len(self.views)))
            value_now = self._filled(self.views.normalised(indices).to(self.precision.device))
            for k in range(1, max((*self._kept, *self._files)) + 1):
                value_now = self._next(k, value_now)
                if k in self._kept:
                    self._kept[k][indices] = value_now[: len(indices)].cpu()
                elif k in self._files:
                    self._files[k].write(start, value_now[: len(indices)].cpu())
            done = int(indices[-1]) + 1
            diary.keep(done)
            looked(done, len(self.views))
        diary.keep(done, last=True)

    def at(self, value: int, index: Tensor) -> Tensor:
        """The given value of some views, on the device."""
        base = self._base(value)
        found = self._remembered(base, index).to(self.precision.device)
        return self._through(found, base, value).float()

    def _through(self, features: Tensor, base: int, value: int) -> Tensor:
        """The given value, from that of `base`."""
        if base == value:
            return features
        parts = []
        for part in features.split(self.chunk):
            made = self._filled(part)
            for k in range(base + 1, value + 1):
                made = self._next(k, made)
            parts.append(made[: len(part)])
        return torch.cat(parts)

    def _filled(self, features: Tensor) -> Tensor:
        """A batch of `chunk` rows on a CPU, whose kernels round a row otherwise in batches of other sizes."""
        if self.precision.device.type != "cpu" or len(features) == self.chunk:
            return features
        return features[torch.arange(self.chunk) % len(features)]

    def _remembered(self, value: int, index: Tensor) -> Tensor:
        if value not in self._files:
            return self._kept[value][index] if value else self.views.normalised(index)
        while True:
            try:
                return self._files[value].read(index)
            except DamagedRow as damaged:
                self._repair(value, damaged.row)

    def _repair(self, value: int, row: int) -> None:
        """Compute the rows that were computed together with a damaged one again."""
        self.cache.warn(f"a row of `{self._files[value].path}` is damaged: it is computed again.")
        start = row // self.chunk * self.chunk
        index = torch.arange(start, min(start + self.chunk, len(self.views)))
        made = self._through(self.views.normalised(index).to(self.precision.device), 0, value)
        self._files[value].write(start, made.cpu())

    def forget(self, wanted: Collection[int]) -> None:
        """Give back the memory of everything that the values still `wanted` are not made of."""
        bases = {self._base(value) for value in wanted}
        for value in [k for k in self._kept if k not in bases]:
            del self._kept[value]
        for value in [k for k in self._files if k not in bases]:
            self._files.pop(value).close()

    def _base(self, value: int) -> int:
        """The remembered value that a value is made of, which depends on nothing that changes during a run: a resumed
        run adds up the same numbers in the same order."""
        return max((k for k, place in self.places.items() if k <= value and place != "again"), default=0)

    @torch.no_grad()
    def _next(self, k: int, value: Tensor) -> Tensor:
        with self.precision.autocast():
            result: Tensor = self.pieces[k - 1](value)
        return result.to(
            self.precision.dtype
        ).contiguous()  # kernels round by strides too, and what is kept has plain ones


def size_of(value: int, shapes: Sequence[tuple[int, ...]], views: int, dtype: torch.dtype) -> int:
    """The bytes that a value takes up for all views."""
    return dtype.itemsize * views * math.prod(shapes[value - 1])


def choose_places(
    wanted: Collection[int],
    shapes: Sequence[tuple[int, ...]],
    views: int,
    dtype: torch.dtype,
    rooms: Sequence[tuple[Place, int]],
) -> dict[int, Place]:
    """Where each wanted value is remembered: the smallest first, in the first of the `rooms` that has bytes for it."""
    places: dict[int, Place] = {}
    left = [size for _, size in rooms]
    for value in sorted(wanted, key=lambda k: math.prod(shapes[k - 1])):
        size = size_of(value, shapes, views, dtype)
        fitting = next((i for i, free in enumerate(left) if size <= free), None)
        if fitting is None:
            places[value] = "again"
        else:
            places[value] = rooms[fitting][0]
            left[fitting] -= size
    return places
