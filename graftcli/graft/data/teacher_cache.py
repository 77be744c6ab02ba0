"""Cached teacher features of each view, at each cut: computed once, then kept on the device, in memory or in a file.

Value 0 is the view itself, value k the output of block k, value L the last feature map and value L+1 the logits, where
L is the number of blocks. A value that is not stored is recomputed from the nearest stored value before it. On a CPU
the place of a value changes no bit of it, because the teacher always runs on batches of `chunk` views.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from graftcli.distributed.world import SINGLE, World
from graftcli.graft.backend.precision import Precision
from graftcli.graft.backend.transfer import to_device
from graftcli.graft.data.views import Views
from graftcli.store.cache_files import Cache
from graftcli.store.row_file import DamagedRow, RowFile

Place = Literal["device", "memory", "disk", "recompute"]


class TeacherCache:
    """The teacher's features of every view, stored if there is space and recomputed otherwise."""

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
        """`pieces[k-1]` computes value k, of shape `shapes[k-1]`, from value k-1; `name` prefixes the file names."""
        self.views, self.pieces, self.shapes, self.places = views, pieces, shapes, places
        self.cache, self.name, self.chunk, self.precision = cache, name, chunk, precision
        self._tensors: dict[int, Tensor] = {}
        self._files: dict[int, RowFile] = {}

    def fill(self, values: Collection[int], progress: Callable[[int, int], None], world: World = SINGLE) -> None:
        """Run the teacher once on every view and store what the `values` need. Resumes an interrupted pass.

        `progress` is called with the number of views done and the total. The processes of `world` share the pass, and
        each keeps the features of all views.
        """
        for value in sorted({self._base(value) for value in values} - {0}):
            shape = self.shapes[value - 1]
            if self.places[value] in ("device", "memory"):
                device = self.precision.device if self.places[value] == "device" else None
                self._tensors[value] = torch.empty(len(self.views), *shape, dtype=self.precision.dtype, device=device)
            else:
                self._files[value] = self.cache.rows(
                    f"{self.name}-{value}", len(self.views), shape, self.precision.dtype
                )
        if not self._tensors and not self._files:
            return
        pass_record = self.cache.progress(self.name, self._tensors, self._files)
        done = min(world.gather(pass_record.restore()))
        for rows in self._files.values():
            rows.open()
        progress(done, len(self.views))
        for first in range(done, len(self.views), self.chunk * world.size):
            features = self._chunk_features(first + world.rank * self.chunk, pads=world.size > 1)
            for value, tensor in features.items():
                for rank, part in enumerate(world.gather_tensors(tensor)):
                    self._store(value, first + rank * self.chunk, part)
            done = min(first + self.chunk * world.size, len(self.views))
            pass_record.keep(done)
            progress(done, len(self.views))
        pass_record.keep(done, last=True)

    def _chunk_features(self, start: int, *, pads: bool) -> dict[int, Tensor]:
        """Compute the values to store of the chunk of views from `start`, or of the last view if that is beyond."""
        end = min(start + self.chunk, len(self.views))
        features = self.views.normalised(torch.arange(min(start, end - 1), end))
        features = _repeated(features, self.chunk) if pads else self._pad(features)
        stored, values = (*self._tensors, *self._files), {}
        for k in range(1, max(stored) + 1):
            features = self._next(k, features)
            if k in stored:
                values[k] = features
        return values

    def _store(self, value: int, start: int, features: Tensor) -> None:
        """Store the features of the views from `start`; those beyond the last view are padding."""
        count = min(self.chunk, len(self.views) - start)
        if count <= 0:
            return
        if value in self._tensors:
            self._tensors[value][start : start + count] = features[:count]
        else:
            self._files[value].write(start, features[:count].cpu())

    def at(self, value: int, index: Tensor) -> Tensor:
        """Return a value of the views at `index`, in float32 on the device; `index` is on the CPU."""
        base = self._base(value)
        return self._compute(self._stored(base, index), base, value).float()

    def _compute(self, features: Tensor, base: int, value: int) -> Tensor:
        """Compute `value` from the features of value `base`."""
        if base == value:
            return features
        outputs = []
        for chunk in features.split(self.chunk):
            output = self._pad(chunk)
            for k in range(base + 1, value + 1):
                output = self._next(k, output)
            outputs.append(output[: len(chunk)])
        return torch.cat(outputs)

    def _pad(self, features: Tensor) -> Tensor:
        """Pad a batch to `chunk` rows on a CPU, whose kernels round differently at other batch sizes."""
        if self.precision.device.type != "cpu" or len(features) == self.chunk:
            return features
        return _repeated(features, self.chunk)

    def _stored(self, value: int, index: Tensor) -> Tensor:
        """Return the stored rows of a value, on the device."""
        if not value:
            return self.views.normalised(index)
        if value in self._files:
            return to_device(self._read(value, index), self.precision.device)
        if self.places[value] == "device":
            return self._tensors[value][to_device(index, self.precision.device)]
        return to_device(self._tensors[value][index], self.precision.device)

    def _read(self, value: int, index: Tensor) -> Tensor:
        while True:
            try:
                return self._files[value].read(index)
            except DamagedRow as damaged:
                self._repair(value, damaged.row)

    def _repair(self, value: int, row: int) -> None:
        """Recompute the chunk that holds a damaged row."""
        self.cache.warn(f"a row of `{self._files[value].path}` is damaged: graftcli recomputes it.")
        start = row // self.chunk * self.chunk
        index = torch.arange(start, min(start + self.chunk, len(self.views)))
        features = self._compute(self.views.normalised(index), 0, value)
        self._files[value].write(start, features.cpu())

    def release(self, needed: Collection[int]) -> None:
        """Free the memory and close the files of everything that the values still `needed` do not depend on."""
        bases = {self._base(value) for value in needed}
        for value in [k for k in self._tensors if k not in bases]:
            del self._tensors[value]
        for value in [k for k in self._files if k not in bases]:
            self._files.pop(value).close()

    def _base(self, value: int) -> int:
        """The stored value that a value is computed from.

        The choice does not change during a run, so that a resumed run computes the same bits.
        """
        return max((k for k, place in self.places.items() if k <= value and place != "recompute"), default=0)

    @torch.no_grad()
    def _next(self, k: int, value: Tensor) -> Tensor:
        with self.precision.autocast():
            output: Tensor = self.pieces[k - 1](value)
        # contiguous, as stored values are: kernels round differently for other strides
        return output.to(self.precision.dtype).contiguous()


def _repeated(features: Tensor, count: int) -> Tensor:
    """Repeat the rows of a batch up to `count` rows."""
    return features[(torch.arange(count) % len(features)).to(features.device)]


def size_of(value: int, shapes: Sequence[tuple[int, ...]], views: int, dtype: torch.dtype) -> int:
    """The bytes of a value for all views."""
    return dtype.itemsize * views * math.prod(shapes[value - 1])


def choose_places(
    values: Collection[int],
    shapes: Sequence[tuple[int, ...]],
    views: int,
    dtype: torch.dtype,
    rooms: Sequence[tuple[Place, int]],
) -> dict[int, Place]:
    """Choose where each value is stored: smallest first, in the first of the `rooms` with enough free bytes."""
    places: dict[int, Place] = {}
    left = [size for _, size in rooms]
    for value in sorted(values, key=lambda k: math.prod(shapes[k - 1])):
        size = size_of(value, shapes, views, dtype)
        room = next((i for i, free in enumerate(left) if size <= free), None)
        if room is None:
            places[value] = "recompute"
        else:
            places[value] = rooms[room][0]
            left[room] -= size
    return places
