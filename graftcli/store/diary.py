"""How far the teacher has come in looking at the views, and what it said, on the disk.

A look that takes long is not begun again when the run goes on.
"""

import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from graftcli.store.rows import Rows, bytes_of
from graftcli.store.written import write_json, writing

_KEEP_EVERY = 8.0  # seconds; a shorter look is never written down


class Diary:
    """The rows of `kept` that are filled, in order; those of `files` lie on the disk by themselves."""

    def __init__(self, folder: Path, name: str, kept: Mapping[int, Tensor], files: Mapping[int, Rows]) -> None:
        self.folder, self.name, self.kept, self.files = folder, name, kept, files
        self._done = 0  # rows that are written down
        self._at = time.monotonic()

    @property
    def _page(self) -> Path:
        return self.folder / f"{self.name}-done.json"

    def _file(self, value: int) -> Path:
        return self.folder / f"{self.name}-{value}.bin"

    def restore(self) -> int:
        """Fill in what an earlier session wrote down; returns how many rows that are."""
        try:
            page = json.loads(self._page.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return 0
        sizes = {value: page["done"] * _row(tensor) for value, tensor in self.kept.items()}
        whole = all(rows.is_whole for rows in self.files.values()) and all(
            self._file(value).is_file() and self._file(value).stat().st_size >= size for value, size in sizes.items()
        )
        if not whole or not {*self.kept, *self.files} <= set(page["values"]):
            self._page.unlink()  # before a file is made anew, whose rows are zeros
            return 0
        for value, tensor in self.kept.items():
            size, file = page["done"] * tensor[0].numel(), str(self._file(value))
            rows = torch.from_file(file, shared=False, size=size, dtype=tensor.dtype)
            tensor[: page["done"]] = rows.view(page["done"], *tensor.shape[1:])
        self._done = page["done"]
        return self._done

    def keep(self, done: int, *, last: bool = False) -> None:
        """Write down the rows up to `done`, when the last time was long ago; the `last` ones if others are."""
        if (time.monotonic() - self._at <= _KEEP_EVERY and not (last and self._done)) or not self._has_room():
            return
        for value, tensor in self.kept.items():
            self._append(value, tensor, done)
        for rows in self.files.values():
            rows.sync()
        write_json(self._page, {"done": done, "values": sorted({*self.kept, *self.files})})
        self._done, self._at = done, time.monotonic()

    def _append(self, value: int, tensor: Tensor, done: int) -> None:
        path, row = self._file(value), _row(tensor)
        with writing(path, (done - self._done) * row):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("r+b" if path.exists() else "w+b") as file:
                file.seek(self._done * row)
                file.write(bytes_of(tensor[self._done : done]))
                file.flush()
                os.fsync(file.fileno())

    def _has_room(self) -> bool:
        """Whether all of it would leave half of the free disk alone; else a look is rather begun again."""
        needed = sum(len(tensor) * _row(tensor) for tensor in self.kept.values())
        self.folder.mkdir(parents=True, exist_ok=True)
        return needed <= shutil.disk_usage(self.folder).free // 2


def _row(tensor: Tensor) -> int:
    return tensor[0].numel() * tensor.element_size()
