"""What a run can make again, and rather does not: what the teacher said of the views, and images that were made."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from graftcli.store.diary import Diary
from graftcli.store.rows import Rows
from graftcli.store.written import write_bytes


class Cache:
    """Files of a run that live until it is finished, by their names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def rows(self, name: str, count: int, shape: Sequence[int], dtype: torch.dtype) -> Rows:
        return Rows(self.folder / f"{name}.bin", count, shape, dtype)

    def diary(self, name: str, kept: Mapping[int, Tensor], files: Mapping[int, Rows]) -> Diary:
        """Of the rows `name-1`, `name-2`, …"""
        return Diary(self.folder, name, kept, files)

    def pixels(self, name: str, shape: Sequence[int], make: Callable[[], Tensor]) -> Tensor:
        """uint8 of that shape: what an earlier session wrote down whole, else what is made, and written down, now."""
        path = self.folder / f"{name}.bin"
        if not path.is_file() or path.stat().st_size != math.prod(shape):
            write_bytes(path, make().numpy().tobytes())
        return torch.from_numpy(np.fromfile(path, np.uint8)).view(*shape)
