"""Images in a folder, flat or nested. Links are followed, and each folder is visited once."""

import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from graftcli.images.refusal import LARGEST_FILE, Refused, check_file_size, read_image
from graftcli.images.sources.place import Place, RemotePath, size_of, stamp
from graftcli.images.sources.source import Entry, Files, PackedNames, Source, is_hidden, printable
from graftcli.images.special import special_devices

_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISDIR, "a folder"),
)


def kind_of_file(mode: int) -> str:
    """The kind of a special file, for messages."""
    return next((kind for test, kind in _KINDS if test(mode)), "a special file")


def _files(root: Place, stack: ExitStack) -> Files | None:
    if not root.is_dir():
        return None
    return _FolderFiles(root) if isinstance(root, Path) else _RemoteFiles(root)


class _FolderFiles(Files):
    """The files below a folder, then the folders that cannot be read."""

    def __init__(self, root: Path) -> None:
        self._root, self._special = root, special_devices()
        errors: list[OSError] = []
        # relative to the root, as the system names them
        self._names = PackedNames(
            file.relative_to(root).as_posix() for file in files_below(root, errors.append, self._special)
        )
        for error in errors:
            if Path(error.filename) == root:
                raise error
        self._unread = [(Path(error.filename), error.strerror or str(error)) for error in errors]

    def __len__(self) -> int:
        return len(self._names) + len(self._unread)

    def entry(self, index: int) -> Entry:
        """The file at an index from 0."""
        if index < len(self._names):
            name = self._names[index]
            return Entry(printable(name), partial(_read_file, self._root / name, self._special))
        folder, reason = self._unread[index - len(self._names)]
        return Entry(printable(folder.relative_to(self._root).as_posix()) + "/", partial(_refuse, reason))

    def state(self) -> Iterator[str]:
        """The name, size and time of each file."""
        for index in range(len(self._names)):
            file = self._root / self._names[index]
            yield f"{self._names[index]} {stamp(file) if file.exists() else ''}"


class _RemoteFiles(Files):
    """The files below a folder at a URL."""

    def __init__(self, root: RemotePath) -> None:
        self._root, self._names = root, PackedNames(root.below())

    def __len__(self) -> int:
        return len(self._names)

    def entry(self, index: int) -> Entry:
        """The file at an index from 0."""
        name = self._names[index]
        return Entry(printable(name), partial(_read_remote, self._root / name))


def files_below(
    root: Path, on_error: Callable[[OSError], None] | None = None, special: Mapping[int, str] | None = None
) -> Iterator[Path]:
    """Iterate over the files below `root`. Links are followed, and each folder is visited once.

    `on_error` is called for folders that cannot be read or are on one of the `special` file systems.
    """
    special = special_devices() if special is None else special
    visited: set[tuple[int, int]] = set()
    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=on_error):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in visited:
            subfolders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        if kind := special.get(status.st_dev):
            subfolders.clear()
            if on_error:
                on_error(OSError(errno.EINVAL, _on_special(kind), folder))
            continue
        subfolders[:] = sorted(name for name in subfolders if not is_hidden(name))
        yield from (Path(folder) / name for name in sorted(files))


def _on_special(kind: str) -> str:
    return f"it is on a special file system ({kind}), which holds no images"


def _refuse(reason: str) -> bytes:
    raise Refused(reason)


def _read_file(path: Path, special: Mapping[int, str]) -> bytes:
    status = path.stat()  # before opening: opening a pipe blocks until something writes to it
    if not stat.S_ISREG(status.st_mode):
        raise Refused(f"it is {kind_of_file(status.st_mode)}, not a file")
    if kind := special.get(status.st_dev):
        raise Refused(_on_special(kind))
    check_file_size(status.st_size)
    with path.open("rb") as file:
        data = read_image(file, (status.st_size or LARGEST_FILE) + 1)  # some file systems report no size
    check_file_size(len(data))
    return data


def _read_remote(file: RemotePath) -> bytes:
    check_file_size(size_of(file))
    with file.open("rb") as stream:
        return read_image(stream, size_of(file))


FOLDER = Source("folder", _files)
