"""A source of any number of images, which are generated on access instead of read from files."""

import struct
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from graftcli.images import Images, Preprocess
from graftcli.images.sources import SourceFiles
from graftcli.images.sources.source import Entry, Files
from graftcli.store.pixel_decoding import DecodeOptions
from graftcli.store.pixel_store import stored_images


class Generated(Files):
    """`count` different bitmaps of `side` x `side` pixels."""

    is_images = True

    def __init__(self, count: int, side: int) -> None:
        self._total, self.side = count, side
        self._noise = np.random.default_rng(0).integers(0, 256, side * side * 3, dtype=np.uint8)

    def __len__(self) -> int:
        return self._total

    def entry(self, index: int) -> Entry:
        return Entry(f"{index:08}", partial(self.bitmap, index))

    def state(self) -> Iterator[str]:
        yield f"{self._total} {self.side}"

    def bitmap(self, index: int) -> bytes:
        """A BMP: noise that is shifted by the index, and the index itself in the first pixels."""
        pixels = np.roll(self._noise, index % len(self._noise))
        pixels[:8] = np.frombuffer(struct.pack("<Q", index), np.uint8)
        size = struct.pack("<ii", self.side, self.side)
        header = struct.pack("<IHHI", 54 + len(pixels), 0, 0, 54) + struct.pack("<I", 40) + size
        return b"BM" + header + struct.pack("<HHIIiiII", 1, 24, 0, len(pixels), 0, 0, 0, 0) + pixels.tobytes()


def preprocess(side: int) -> Preprocess:
    return Preprocess((side, side), 3, (0.5,) * 3, (0.25,) * 3, 1.0, "bilinear")


def store_of(folder: Path, count: int, side: int, options: DecodeOptions | None = None) -> Images:
    """Decode generated images into a store."""
    opened = SourceFiles(Generated(count, side), Counter())
    return stored_images(folder, "generated", opened, preprocess(side), options or DecodeOptions(jobs=1))
