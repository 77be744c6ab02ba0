"""How far the teacher's pass over the views has come, and its cached features, on the disk.

A pass that takes long is not repeated when the run is resumed.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from graftcli.models.loading.plain_file import read_text
from graftcli.store.atomic import write_json, writing
from graftcli.store.row_file import RowFile, Sums, bytes_of

_KEEP_EVERY = 8.0  # seconds; a shorter look is never written down


@dataclass(frozen=True)
class ValueProgress:
    """How many rows of each value are written: the bytes of a row, and the checksum of them all."""

    done: int
    rows: Mapping[int, tuple[int, int]]


def read_page(path: Path) -> ValueProgress | None:
    """What graftcli wrote; None where it is something else."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        text = json.loads(read_text(path))
        page = ValueProgress(text["done"], {int(value): (row, sums) for value, (row, sums) in text["rows"].items()})
        numbers = [page.done, *(number for pair in page.rows.values() for number in pair)]
        plain = all(type(number) is int and number >= 0 for number in numbers)
        if plain and all(row > 0 for row, _ in page.rows.values()):
            return page
    return None


class CacheProgress:
    """The rows of `kept` that are filled, in order; those of `files` lie on the disk by themselves."""

    def __init__(
        self,
        folder: Path,
        name: str,
        kept: Mapping[int, Tensor],
        files: Mapping[int, RowFile],
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.folder, self.name, self.kept, self.files, self.warn = folder, name, kept, files, warn
        self._done = 0  # rows that are written
        self._sums = {value: Sums(len(tensor)) for value, tensor in kept.items()}
        self._at = time.monotonic()

    @property
    def _page(self) -> Path:
        return self.folder / f"{self.name}-done.json"

    def _file(self, value: int) -> Path:
        return self.folder / f"{self.name}-{value}.bin"

    def restore(self) -> int:
        """Fill in what an earlier session wrote; returns how many rows that are."""
        if not self._page.is_file():
            return 0
        page = self._read_page()
        if page is None or not all(self._is_restored(value, page) for value in {*self.kept, *self.files}):
            self.warn(f"the teacher's cached features in `{self.folder}` are damaged: they are computed again.")
            with writing(self._page):
                self._page.unlink()  # before a file is made again, whose rows are zeros
            return 0
        self._done = page.done
        return self._done

    def _read_page(self) -> ValueProgress | None:
        """What the page says, where graftcli can have written it of these values."""
        page = read_page(self._page)
        return page if page is not None and page.done <= self._count else None

    @property
    def _count(self) -> int:
        return min([*map(len, self.kept.values()), *(rows.count for rows in self.files.values())])

    def _is_restored(self, value: int, page: ValueProgress) -> bool:
        """Whether the first rows of a value are what was written; in memory they are filled in."""
        done, (_, sums) = page.done, page.rows.get(value, (0, None))
        if sums is None or not self._file(value).is_file():
            return False
        if value in self.files:
            return self.files[value].restore(done, sums)
        tensor, row = self.kept[value], _row(self.kept[value])
        if self._file(value).stat().st_size < done * row:
            return False
        if done:
            count, file = done * tensor[0].numel(), str(self._file(value))
            rows = torch.from_file(file, shared=False, size=count, dtype=tensor.dtype)
            tensor[:done] = rows.view(done, *tensor.shape[1:])
            self._sums[value].add(0, bytes_of(tensor[:done]), row)
        return self._sums[value].total(done) == sums

    def keep(self, done: int, *, last: bool = False) -> None:
        """Write the rows up to `done`, when the last time was long ago; the `last` ones if others are."""
        if (time.monotonic() - self._at <= _KEEP_EVERY and not (last and self._done)) or not self._has_room():
            return
        for value, tensor in self.kept.items():
            self._append(value, tensor, done)
        for rows in self.files.values():
            rows.sync()
        sums = {value: (_row(self.kept[value]), sums.total(done)) for value, sums in self._sums.items()}
        sums |= {value: (rows.row, rows.sums.total(done)) for value, rows in self.files.items()}
        write_json(self._page, {"done": done, "rows": sums})
        self._done, self._at = done, time.monotonic()

    def _append(self, value: int, tensor: Tensor, done: int) -> None:
        path, row = self._file(value), _row(tensor)
        self._sums[value].add(self._done, bytes_of(tensor[self._done : done]), row)
        with writing(path, (done - self._done) * row):
            path.parent.mkdir(exist_ok=True)  # the folder of the run itself is not made again where it is gone
            with path.open("r+b" if path.exists() else "w+b") as file:
                file.seek(self._done * row)
                file.write(bytes_of(tensor[self._done : done]))
                file.flush()
                os.fsync(file.fileno())

    def _has_room(self) -> bool:
        """Whether all of it would leave half of the free disk alone; else a look is rather begun again."""
        needed = sum(len(tensor) * _row(tensor) for tensor in self.kept.values())
        with writing(self.folder):
            self.folder.mkdir(exist_ok=True)
        return needed <= shutil.disk_usage(self.folder).free // 2


def _row(tensor: Tensor) -> int:
    return tensor[0].numel() * tensor.element_size()
