"""The digests, names and sizes of decoded images, in compact tables."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graftcli.images.decoding import Broken
from graftcli.images.loading import Decoded
from graftcli.images.sources.source import PackedNames


class PixelTable:
    """The digest, the name and the size of each row; `order` sorts the rows as `load` does."""

    def __init__(self, count: int) -> None:
        self.done = 0
        self.broken: list[Broken] = []
        self.order: NDArray[np.int64] = np.zeros(0, np.int64)
        self._digests = np.zeros((count, 32), np.uint8)
        self._sides = np.zeros(count, np.uint32)  # 0 if broken or not decoded yet
        self._names, self._places = PackedNames(), np.zeros(count, np.int64)

    def add(self, rows: range, results: Sequence[Decoded | Broken]) -> None:
        """Add the results of consecutive rows."""
        for row, result in zip(rows, results, strict=True):
            if isinstance(result, Broken):
                self.broken.append(result)
                continue
            self._digests[row] = np.frombuffer(result.digest, np.uint8)
            self._sides[row] = result.short_side
            self._places[row] = len(self._names)
            self._names.append(result.name)
        self.done += len(rows)

    def sort(self) -> None:
        """Sort the broken images by name, and the others by digest and name."""
        self.broken.sort(key=lambda image: image.name)
        rows = np.flatnonzero(self._sides)
        words = self._digests[rows].view(">u8")
        rows = rows[np.lexsort(words.T[::-1])]
        same = (self._digests[rows[1:]] == self._digests[rows[:-1]]).all(1)
        starts = np.flatnonzero(np.diff(same.astype(np.int8), prepend=0, append=0) > 0)
        ends = np.flatnonzero(np.diff(same.astype(np.int8), prepend=0, append=0) < 0)
        for start, end in zip(starts, ends, strict=True):
            rows[start : end + 1] = sorted(rows[start : end + 1], key=self._name)
        self.order = rows

    def _name(self, row: int) -> str:
        return self._names[int(self._places[row])]

    @property
    def short_side(self) -> int:
        """The lower median of the short sides."""
        sides = np.sort(self._sides[self.order])
        return int(sides[(len(sides) - 1) // 2])

    def tensors(self) -> dict[str, Tensor]:
        """Digests and names, in order."""
        names = PackedNames(self._name(row) for row in self.order.tolist())
        return {
            "digests": torch.from_numpy(self._digests[self.order]),
            "names": torch.frombuffer(names.text or bytearray(1), dtype=torch.uint8),
            "ends": torch.frombuffer(names.ends, dtype=torch.int64),
        }


def names_of(tensors: Mapping[str, Tensor]) -> PackedNames:
    """The names in the tensors of a table."""
    names = PackedNames()
    names.text += tensors["names"].numpy().tobytes()
    names.ends.frombytes(tensors["ends"].numpy().tobytes())
    return names
