"""Several files of one source: a pattern such as `shards-{0000..0099}.tar`, or a folder of .tar, .parquet or .arrow."""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path, PurePosixPath

from graftcli.images.file_formats import SUFFIXES
from graftcli.images.sources.arrow_file import dataset_files
from graftcli.images.sources.folder import files_below
from graftcli.images.sources.place import Place
from graftcli.images.sources.source import Entry, Files, is_hidden

_MAX_OPEN = 8  # files that are open at once


class Shards(Files):
    """The files of many archives or tables, one after another."""

    def __init__(self, names: Sequence[str], parts: Sequence[Files]) -> None:
        self._names, self._parts = names, parts
        self._starts = [0, *accumulate(map(len, parts))]
        self._open: OrderedDict[int, None] = OrderedDict()
        self.is_images = all(part.is_images for part in parts)

    def __len__(self) -> int:
        return self._starts[-1]

    def entry(self, index: int) -> Entry:
        """The file at an index from 0. Its folders come first in its name, because they may be its class."""
        number = bisect_right(self._starts, index) - 1
        entry = self._parts[number].entry(index - self._starts[number])
        if is_hidden(entry.name):
            return entry
        path = PurePosixPath(entry.name)
        name = str(path.with_name(f"{self._names[number]}:{path.name}"))
        return Entry(name, lambda: self._read(number, entry.read))

    def state(self) -> Iterator[str]:
        """The state of every shard."""
        for name, part in zip(self._names, self._parts, strict=True):
            yield name
            yield from part.state()

    def release(self) -> None:
        """Close all shards."""
        for part in self._parts:
            part.release()
        self._open.clear()

    def _read(self, number: int, read: Callable[[], bytes]) -> bytes:
        """Read from a shard, and close the least recently used one."""
        self._open[number] = None
        self._open.move_to_end(number)
        if len(self._open) > _MAX_OPEN:
            self._parts[self._open.popitem(last=False)[0]].release()
        return read()


def opened_shards(
    places: Sequence[Place], open_one: Callable[[Place, ExitStack], Files | None], stack: ExitStack
) -> Files | None:
    """Open several places as one source; None if one of them is not a source."""
    parts: list[Files] = []
    for place in places:
        part = open_one(place, stack)
        if part is None:
            return None
        part.release()
        parts.append(part)
    return Shards([place.name.split(".")[0] for place in places], parts)


def shards_in(folder: Place, suffixes: tuple[str, ...]) -> list[Place]:
    """The shards in a folder; none if it also contains an image, because then it is a folder of images."""
    if isinstance(folder, Path) and (files := dataset_files(folder)) is not None:
        return list(files)
    names = (
        (file.relative_to(folder).as_posix() for file in files_below(folder))
        if isinstance(folder, Path)
        else iter(folder.below())
    )
    found: list[str] = []
    for name in names:
        if is_hidden(name):
            continue
        if name.lower().endswith(SUFFIXES):
            return []
        if name.lower().endswith(suffixes):
            found.append(name)
    return [folder / name for name in sorted(found)]
