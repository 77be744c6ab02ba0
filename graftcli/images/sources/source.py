"""The interface of a kind of image source."""

import re
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import overload

from graftcli.images.sources.place import Place, stamp

# Folders of thumbnails and resource forks that other systems create.
IGNORED_FOLDERS = ("__MACOSX", "@eaDir")

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a source. `read` returns its bytes; it raises Refused, or any error of reading."""

    name: str
    read: Callable[[], bytes]


class Files(Sequence[Entry], ABC):
    """The files of a source in compact tables; entries are created on access.

    Many processes may each open the same source and read different indices: the order is always the same.
    """

    is_images = False  # whether every file is an image, whatever its suffix

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def entry(self, index: int) -> Entry:
        """The file at an index from 0."""

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> "Files": ...
    def __getitem__(self, index: int | slice) -> "Entry | Files":
        chosen = range(len(self))[index]
        return self.entry(chosen) if isinstance(chosen, int) else Chosen(self, chosen)

    def __iter__(self) -> Iterator[Entry]:
        return map(self.entry, range(len(self)))

    def state(self) -> Iterator[str]:
        """Names, sizes and modification times, which change if the files do."""
        return (entry.name for entry in self)

    def release(self) -> None:
        """Close open files; the next read opens them again."""


class Listed(Files):
    """Files in a list of entries; `place` is the archive that holds them, if any."""

    def __init__(self, entries: Iterable[Entry], place: Place | None = None) -> None:
        self._entries, self._place = tuple(entries), place

    def __len__(self) -> int:
        return len(self._entries)

    def entry(self, index: int) -> Entry:
        """The file at an index from 0."""
        return self._entries[index]

    def state(self) -> Iterator[str]:
        """Names, and the state of the archive."""
        yield stamp(self._place) if self._place is not None else ""
        yield from super().state()


class Chosen(Files):
    """A selection of the files of a source, in any order."""

    def __init__(self, files: Files, indices: Sequence[int]) -> None:
        self._files: Files = files
        self._indices, self.is_images = indices, files.is_images
        if isinstance(files, Chosen):  # flattens nested selections
            self._files, self._indices = files._files, [files._indices[index] for index in indices]

    def __len__(self) -> int:
        return len(self._indices)

    def entry(self, index: int) -> Entry:
        """The file at an index from 0."""
        return self._files.entry(self._indices[index])

    def state(self) -> Iterator[str]:
        """The state of all files, then the chosen indices."""
        yield from self._files.state()
        yield from map(str, self._indices)


class PackedNames(Sequence[str]):
    """Many names in one block of memory, with an overhead of a few bytes each."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.text, self.ends = bytearray(), array("Q")
        for name in names:
            self.append(name)

    def append(self, name: str) -> None:
        """Add a name; bytes that are not UTF-8 are kept."""
        self.text += name.encode("utf-8", "surrogateescape")
        self.ends.append(len(self.text))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        chosen = range(len(self))[index]
        return self._name(chosen) if isinstance(chosen, int) else [self._name(i) for i in chosen]

    def _name(self, index: int) -> str:
        start = self.ends[index - 1] if index else 0
        return self.text[start : self.ends[index]].decode("utf-8", "surrogateescape")


@dataclass(frozen=True)
class Source:
    """A kind of image source. An entry of `SOURCES` adds a kind.

    Parameters:
        name: The kind, for messages and help texts: "folder", ".zip".
        files: Lists every file at a place, which can be read while the stack is open. Returns None for another kind of
            source; raises UnreadableSource, OSError or ValueError for a source of this kind that is not readable.
        shards: Suffixes of files of this kind that form one source together if a folder contains several.
    """

    name: str
    files: Callable[[Place, ExitStack], Files | None]
    shards: tuple[str, ...] = ()


class UnreadableSource(Exception):
    """A source cannot be read at all; the message is the reason."""


def printable(name: str) -> str:
    """Escape bytes that are not UTF-8 and control characters as \\xNN, for any terminal and any file."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def is_hidden(name: str) -> bool:
    """Whether a file is hidden, or in a folder that is hidden or ignored."""
    parts = PurePosixPath(name).parts
    return any((part.startswith(".") and part != "..") or part in IGNORED_FOLDERS for part in parts)
