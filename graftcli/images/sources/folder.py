"""Images in a folder, flat or nested. Links are followed, and each folder is visited once."""

import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from graftcli.images.refusal import LARGEST_FILE, Refused, check_file_size, read_image
from graftcli.images.sources.source import Entry, Source, is_hidden, printable
from graftcli.images.special import special_devices

_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISDIR, "a folder"),
)


def kind_of_file(mode: int) -> str:
    """What a file is that is no regular file."""
    return next((kind for test, kind in _KINDS if test(mode)), "a special file")


def _entries(root: Path, stack: ExitStack) -> list[Entry] | None:
    return list(_walk(root, special_devices())) if root.is_dir() else None


def _walk(root: Path, special: Mapping[int, str]) -> Iterator[Entry]:
    errors: list[OSError] = []
    for file in files_below(root, errors.append, special):
        yield Entry(_name(file, root), partial(_read_file, file, special))
    for error in errors:
        if Path(error.filename) == root:
            raise error
        yield Entry(_name(Path(error.filename), root) + "/", partial(_refuse, error.strerror or str(error)))


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


def _name(path: Path, root: Path) -> str:
    return printable(path.relative_to(root).as_posix())


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


FOLDER = Source("folder", _entries)
