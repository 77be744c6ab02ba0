"""Find image files in a folder, flat or nested, or in a .zip or .tar, which is not unpacked.

Files are found by suffix; their content is not inspected. Reading a file that is not allowed or not readable raises
`Refused` with the reason.
"""

import difflib
import errno
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from graftcli.errors import ImagesError
from graftcli.images import archives
from graftcli.images.refusal import LARGEST_FILE, Refused, check_file_size, read_image
from graftcli.images.special import special_devices

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
# Image formats that are not supported: they are reported rather than ignored.
UNSUPPORTED = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".psd", ".svg", ".dng", ".cr2", ".nef", ".arw")
# Folders of thumbnails and resource forks that other systems create.
IGNORED_FOLDERS = ("__MACOSX", "@eaDir")
# Raised by a folder or an archive that cannot be listed.
READ_ERRORS = (OSError, ValueError, archives.UnreadableArchive)
EXPECTED = "a folder of images, or a .zip or .tar of them"

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISDIR, "a folder"),
)


@dataclass(frozen=True)
class Entry:
    """A file with the suffix of an image. `read` returns its bytes; it raises Refused, or any error of reading."""

    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class ImageSource:
    entries: tuple[Entry, ...]
    suffixes: Counter[str]  # of every file, including those that are not images


@contextmanager
def open_source(path: Path) -> Iterator[ImageSource]:
    """Open a folder or archive; its entries can be read until the context ends."""
    path = path.expanduser()
    _require_utf8(path)
    with ExitStack() as stack:
        try:
            files = [entry for entry in _list_files(path, stack) if not is_hidden(entry.name)]
        except READ_ERRORS as error:
            raise ImagesError(f"`{path}` cannot be read: {printable(str(error))}", f"Give {EXPECTED}.") from error
        images = tuple(entry for entry in files if _suffix(entry.name) in (*SUFFIXES, *UNSUPPORTED, "/"))
        yield ImageSource(images, Counter(_suffix(entry.name) or "without a suffix" for entry in files))


def _suffix(name: str) -> str:
    return "/" if name.endswith("/") else PurePosixPath(name).suffix.lower()


def is_hidden(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return any((part.startswith(".") and part != "..") or part in IGNORED_FOLDERS for part in parts)


def _list_files(path: Path, stack: ExitStack) -> list[Entry]:
    """Every file of the folder or archive at `path`."""
    status, special = _status(path), special_devices()
    mode = status.st_mode
    if kind := special.get(status.st_dev):
        raise ImagesError(f"`{path}` is on a special file system ({kind}), which holds no images.", f"Give {EXPECTED}.")
    if stat.S_ISDIR(mode):
        return list(_walk(path, special))
    if not stat.S_ISREG(mode):
        raise ImagesError(f"`{path}` is {_kind(mode)}.", f"Give {EXPECTED}.")
    if path.suffix.lower() in SUFFIXES:
        raise ImagesError(f"`{path}` is a single image; at least two are needed.", f"Give {EXPECTED}.")
    members = archives.list_members(path, stack)
    if members is not None:
        return [Entry(printable(name), read) for name, read in members]
    raise ImagesError(f"`{path}` is neither a folder nor a .zip or .tar.", f"Give {EXPECTED}.")


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _missing(path) from error


def _missing(path: Path) -> ImagesError:
    """Name the part of `path` that exists, and the closest match for the rest."""
    if path.is_symlink():
        return ImagesError(f"`{path}` is a link to `{path.readlink()}`, which does not exist.", f"Give {EXPECTED}.")
    nearest = next(parent for parent in path.absolute().parents if parent.exists())
    if not nearest.is_dir():
        return ImagesError(f"there is no `{path}`: `{nearest}` is a file, not a folder.", f"Give {EXPECTED}.")
    missing = path.absolute().relative_to(nearest).parts[0]
    close = difflib.get_close_matches(missing, [entry.name for entry in nearest.iterdir()])
    fix = f"Did you mean `{nearest / close[0]}`?" if close else f"Give {EXPECTED}."
    return ImagesError(f"there is no `{path}`: `{nearest}` exists, but holds no `{missing}`.", fix)


def _kind(mode: int) -> str:
    return next((kind for test, kind in KINDS if test(mode)), "a special file")


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


def printable(name: str) -> str:
    """Escape bytes that are not UTF-8 and control characters as \\xNN, for any terminal and any file."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def _require_utf8(path: Path) -> None:
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        raise ImagesError(
            f"the path `{printable(str(path))}` is not UTF-8, so the run record cannot name it.",
            "Rename the folder or archive, or give a link to it.",
        ) from None


def _refuse(reason: str) -> bytes:
    raise Refused(reason)


def _read_file(path: Path, special: Mapping[int, str]) -> bytes:
    status = path.stat()  # before opening: opening a pipe blocks until something writes to it
    if not stat.S_ISREG(status.st_mode):
        raise Refused(f"it is {_kind(status.st_mode)}, not a file")
    if kind := special.get(status.st_dev):
        raise Refused(_on_special(kind))
    check_file_size(status.st_size)
    with path.open("rb") as file:
        data = read_image(file, (status.st_size or LARGEST_FILE) + 1)  # some file systems report no size
    check_file_size(len(data))
    return data
