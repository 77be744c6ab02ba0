"""Files that a resumed run does not have to recompute: cached teacher features and synthetic images."""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from graftcli.store.atomic import write_bytes
from graftcli.store.cache_progress import CacheProgress
from graftcli.store.row_file import RowFile


class Cache:
    """The cache files of a run, removed when it is finished. Damage is detected when a file is read."""

    def __init__(self, folder: Path, warn: Callable[[str], None] = lambda _: None, prefix: str = "") -> None:
        """`prefix` is added to the names of all files, because each process of a job has its own files."""
        self.folder, self.warn, self.prefix = folder, warn, prefix

    def rows(self, name: str, count: int, shape: Sequence[int], dtype: torch.dtype) -> RowFile:
        """The row file `name`; nothing is created yet."""
        return RowFile(self.folder / f"{self.prefix}{name}.bin", count, shape, dtype)

    def progress(self, name: str, tensors: Mapping[int, Tensor], files: Mapping[int, RowFile]) -> CacheProgress:
        """The progress of the values `name-1`, `name-2`, …, held in memory or in row files."""
        return CacheProgress(self.folder, f"{self.prefix}{name}", tensors, files, self.warn)

    def pixels(self, name: str, shape: Sequence[int], make: Callable[[], Tensor]) -> Tensor:
        """uint8 pixels of that shape: read from the cache, or else made and written."""
        path = self.folder / f"{self.prefix}{name}.bin"
        data = path.read_bytes() if path.is_file() else b""
        pixels, digest = data[:-_DIGEST], data[-_DIGEST:]
        if len(pixels) != math.prod(shape) or hashlib.sha256(pixels).digest() != digest:
            if data:
                self.warn(f"`{path}` is damaged: its images are recomputed.")
            pixels = make().numpy().tobytes()
            write_bytes(path, pixels + hashlib.sha256(pixels).digest())
        return torch.from_numpy(np.frombuffer(bytearray(pixels), np.uint8)).view(*shape)


def is_intact_pixels(path: Path) -> bool:
    """Whether a file of images is intact."""
    data = path.read_bytes()
    return hashlib.sha256(data[:-_DIGEST]).digest() == data[-_DIGEST:]


_DIGEST = hashlib.sha256().digest_size  # bytes at the end of the file
