"""What a kind of image source provides."""

import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

# Folders of thumbnails and resource forks that other systems create.
IGNORED_FOLDERS = ("__MACOSX", "@eaDir")

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Entry:
    """A file of a source. `read` returns its bytes; it raises Refused, or any error of reading."""

    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Source:
    """A kind of image source. An entry of `SOURCES` adds a kind.

    Parameters:
        name: What it is, for messages and help texts: "folder", ".zip".
        entries: Lists every file at a path, to be read while the stack is open; None if the path holds another kind.
            Raises UnreadableSource, OSError or ValueError if it holds this kind but cannot be read.
    """

    name: str
    entries: Callable[[Path, ExitStack], list[Entry] | None]


class UnreadableSource(Exception):
    """Why a source as a whole cannot be read."""


def printable(name: str) -> str:
    """Escape bytes that are not UTF-8 and control characters as \\xNN, for any terminal and any file."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def is_hidden(name: str) -> bool:
    """Whether a file is hidden, or in a folder that is hidden or ignored."""
    parts = PurePosixPath(name).parts
    return any((part.startswith(".") and part != "..") or part in IGNORED_FOLDERS for part in parts)
