"""Save the progress of the teacher's pass over the views, so that a resumed run does not repeat a long pass."""

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
from graftcli.store import intervals
from graftcli.store.atomic import write_json, writing
from graftcli.store.row_file import Checksums, RowFile, bytes_of


@dataclass(frozen=True)
class ProgressRecord:
    """The number of rows written of each value, the bytes per row, and the checksum of all rows."""

    done: int
    rows: Mapping[int, tuple[int, int]]


def read_progress(path: Path) -> ProgressRecord | None:
    """Read a progress file; None if it is absent or not valid."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        document = json.loads(read_text(path))
        rows = {int(value): (row_bytes, checksum) for value, (row_bytes, checksum) in document["rows"].items()}
        record = ProgressRecord(document["done"], rows)
        numbers = [record.done, *(number for pair in rows.values() for number in pair)]
        are_counts = all(type(number) is int and number >= 0 for number in numbers)
        if are_counts and all(row_bytes > 0 for row_bytes, _ in rows.values()):
            return record
    return None


class CacheProgress:
    """The progress of one pass: rows of `tensors` are copied to disk, rows of `files` are already there."""

    def __init__(
        self,
        folder: Path,
        name: str,
        tensors: Mapping[int, Tensor],
        files: Mapping[int, RowFile],
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.folder, self.name, self.tensors, self.files, self.warn = folder, name, tensors, files, warn
        self._done = 0  # rows written
        self._checksums = {value: Checksums(len(tensor)) for value, tensor in tensors.items()}
        self._last_write = time.monotonic()

    @property
    def _record_file(self) -> Path:
        return self.folder / f"{self.name}-done.json"

    def _file(self, value: int) -> Path:
        return self.folder / f"{self.name}-{value}.bin"

    def restore(self) -> int:
        """Restore the rows that an earlier session wrote, and return their number."""
        if not self._record_file.is_file():
            return 0
        record = self._read_record()
        if record is None or not all(self._restore_value(value, record) for value in {*self.tensors, *self.files}):
            self.warn(f"the cached teacher features in `{self.folder}` are damaged: they are recomputed.")
            with writing(self._record_file):
                self._record_file.unlink()  # read before a file is recreated with rows of zeros
            return 0
        self._done = record.done
        return self._done

    def _read_record(self) -> ProgressRecord | None:
        """The progress record, if it fits these values."""
        record = read_progress(self._record_file)
        return record if record is not None and record.done <= self._count else None

    @property
    def _count(self) -> int:
        return min([*map(len, self.tensors.values()), *(rows.count for rows in self.files.values())])

    def _restore_value(self, value: int, record: ProgressRecord) -> bool:
        """Restore the written rows of a value; returns whether they are intact."""
        done, (_, checksum) = record.done, record.rows.get(value, (0, None))
        if checksum is None or not self._file(value).is_file():
            return False
        if value in self.files:
            return self.files[value].restore(done, checksum)
        tensor, row_bytes = self.tensors[value], _row_bytes(self.tensors[value])
        if self._file(value).stat().st_size < done * row_bytes:
            return False
        if done:
            count, file = done * tensor[0].numel(), str(self._file(value))
            rows = torch.from_file(file, shared=False, size=count, dtype=tensor.dtype)
            tensor[:done] = rows.view(done, *tensor.shape[1:])
            self._checksums[value].add(0, bytes_of(tensor[:done]), row_bytes)
        return self._checksums[value].total(done) == checksum

    def keep(self, done: int, *, last: bool = False) -> None:
        """Write the rows up to `done` if enough time has passed, or if they are the `last` of a saved pass."""
        waits = time.monotonic() - self._last_write <= intervals.SAVE_SECONDS and not (last and self._done)
        if waits or not self._has_room():
            return
        for value, tensor in self.tensors.items():
            self._append(value, tensor, done)
        for rows in self.files.values():
            rows.sync()
        written = {
            value: (_row_bytes(self.tensors[value]), sums.total(done)) for value, sums in self._checksums.items()
        }
        written |= {value: (rows.row_bytes, rows.checksums.total(done)) for value, rows in self.files.items()}
        write_json(self._record_file, {"done": done, "rows": written})
        self._done, self._last_write = done, time.monotonic()

    def _append(self, value: int, tensor: Tensor, done: int) -> None:
        path, row_bytes = self._file(value), _row_bytes(tensor)
        self._checksums[value].add(self._done, bytes_of(tensor[self._done : done]), row_bytes)
        with writing(path, (done - self._done) * row_bytes):
            path.parent.mkdir(exist_ok=True)  # without parents, so that a removed run folder is not recreated
            with path.open("r+b" if path.exists() else "w+b") as file:
                file.seek(self._done * row_bytes)
                file.write(bytes_of(tensor[self._done : done]))
                file.flush()
                os.fsync(file.fileno())

    def _has_room(self) -> bool:
        """Whether all rows in memory fit in half of the free disk space; otherwise the pass is not saved."""
        needed = sum(len(tensor) * _row_bytes(tensor) for tensor in self.tensors.values())
        with writing(self.folder):
            self.folder.mkdir(exist_ok=True)
        return needed <= shutil.disk_usage(self.folder).free // 2


def _row_bytes(tensor: Tensor) -> int:
    return tensor[0].numel() * tensor.element_size()
