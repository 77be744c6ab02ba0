"""The place of a source: a local file or folder, or a URL, which is opened with the optional package fsspec."""

import itertools
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from graftcli.errors import ImagesError, UsageError

# `Path` merges the two slashes of a URL
_URL = re.compile(r"([a-z][a-z0-9+.-]+(?:::[a-z][a-z0-9+.-]+)*):/+(.*)", re.DOTALL)
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)", re.ASCII)
_MAX_SHARDS = 100_000


class RemotePath:
    """A file or folder at a URL, with the methods of `Path` that sources use."""

    def __init__(self, file_system: Any, path: str, url: str) -> None:
        self.file_system, self.path, self._url = file_system, path, url

    def __str__(self) -> str:
        return self._url

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.path).name

    def is_file(self) -> bool:
        """Whether it exists and is no folder."""
        return not self.is_dir() and bool(self.file_system.exists(self.path))

    def is_dir(self) -> bool:
        """Whether it is a folder. A web page can be both a file and a folder: its suffix decides."""
        return self._is_folder

    @cached_property
    def _is_folder(self) -> bool:
        if PurePosixPath(self.path).suffix and self.file_system.isfile(self.path):
            return False
        return bool(self.file_system.isdir(self.path))

    def open(self, mode: str) -> BinaryIO:
        """Open the file for reading at any position."""
        return cast(BinaryIO, self.file_system.open(self.path, mode))

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What the file system knows about the file."""
        return dict(self.file_system.info(self.path))

    def below(self) -> list[str]:
        """The files below the folder, sorted, relative to it."""
        prefix = self.path.rstrip("/") + "/"
        return sorted(file.removeprefix(prefix) for file in self.file_system.find(self.path))

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(self.file_system, f"{self.path.rstrip('/')}/{name}", f"{self._url.rstrip('/')}/{name}")


Place = Path | RemotePath


def size_of(place: Place) -> int:
    """The size of a file in bytes."""
    return place.stat().st_size if isinstance(place, Path) else int(place.facts.get("size") or 0)


def stamp(place: Place) -> str:
    """The size of a file and the time or version of its content."""
    if isinstance(place, Path):
        status = place.stat()
        return f"{status.st_size} {status.st_mtime_ns}"
    known = (place.facts.get(key) for key in ("size", "ETag", "etag", "mtime", "LastModified", "created"))
    return " ".join(str(fact) for fact in known if fact is not None)


def is_url(source: str | Path) -> bool:
    """Whether a source is a URL, even if it was converted to a `Path`."""
    return _URL.fullmatch(str(source)) is not None


def source_text(source: str | Path) -> str:
    """The source as text, with both slashes of a URL."""
    match = _URL.fullmatch(str(source))
    if match is None:
        return str(source)
    return f"{match[1]}://{'/' * match[1].endswith(('file', 'local'))}{match[2]}"


def places_of(source: str | Path) -> tuple[Place, ...]:
    """The place that a source names, or all places of a pattern such as `shards-{0000..0099}.tar`."""
    text = source_text(source)
    if is_url(text):
        return tuple(_remote(url) for url in expanded(text))
    path = Path(text).expanduser()
    if "{" not in text or path.exists():
        return (path,)
    return tuple(Path(name) for name in expanded(str(path)))


def expanded(pattern: str) -> tuple[str, ...]:
    """The names of a pattern with braces, as in a shell: `{000..012}` and `{train,val}`."""
    pieces = _BRACES.split(pattern)
    options = [tuple(_options(piece)) if number % 2 else (piece,) for number, piece in enumerate(pieces)]
    count = 1
    for option in options:
        count *= len(option)
    if count > _MAX_SHARDS:
        raise UsageError(f"`{pattern}` names {count:,} files; the limit is {_MAX_SHARDS:,}.", "Use a shorter range.")
    return tuple("".join(parts) for parts in itertools.product(*options))


def _options(text: str) -> Iterator[str]:
    if (match := _RANGE.fullmatch(text)) is None:
        yield from text.split(",")
        return
    first, last, width = int(match[1]), int(match[2]), len(match[1])
    if last - first > _MAX_SHARDS:
        last = first + _MAX_SHARDS
    yield from (f"{number:0{width}}" for number in range(first, last + 1))


def _remote(url: str) -> RemotePath:
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        found = f"`{url}` is a URL, but the package fsspec, which opens URLs, is not installed."
        raise ImagesError(found, "python3 -m pip install fsspec aiohttp") from error
    try:
        file_system, path = url_to_fs(url)
    except ImportError as error:
        protocol = url.split("://")[0]
        found = f"`{url}` cannot be opened: {error}"
        raise ImagesError(found, f"Install the package that fsspec needs for {protocol}://.") from error
    except ValueError as error:
        raise ImagesError(f"`{url}` cannot be opened: {error}", "Give a URL that fsspec supports.") from error
    return RemotePath(file_system, path, url)
