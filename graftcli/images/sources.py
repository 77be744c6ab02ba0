"""Where images come from: a folder, flat or nested, or one .zip or .tar of them, read without unpacking.

Nothing here knows what is in an image: it finds files by their suffix and hands over their bytes.
A file that must not or cannot be read raises `Refused`, which says why, when its turn comes.
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
from graftcli.images.refusal import LARGEST_FILE, Refused, bounded, image_bytes
from graftcli.images.special import special_devices

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
# Pictures for a person's eye, but not for this reader: naming them is kinder than passing them over.
FOREIGN = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".psd", ".svg", ".dng", ".cr2", ".nef", ".arw")
# Folders of miniatures and forks that other systems leave behind.
DEBRIS = ("__MACOSX", "@eaDir")
# What a folder or an archive raises when it cannot be listed.
UNREADABLE = (OSError, ValueError, archives.Unreadable)
WANTED = "a folder of images, or one .zip or .tar of them"

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
    """A file that should be an image: `read` gives its bytes, or raises Refused or what the reading raises."""

    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class ImageSource:
    entries: tuple[Entry, ...]
    suffixes: Counter[str]  # of every file that was looked at, also of those that are no images


@contextmanager
def opened(path: Path) -> Iterator[ImageSource]:
    """What lies at `path`; the bytes of its entries can be read until the context ends."""
    path = path.expanduser()
    _require_utf8(path)
    with ExitStack() as held:
        try:
            files = [entry for entry in _listed(path, held) if not is_hidden(entry.name)]
        except UNREADABLE as error:
            raise ImagesError(f"`{path}` cannot be read: {printable(str(error))}", f"Give {WANTED}.") from error
        images = tuple(entry for entry in files if _suffix(entry.name) in (*SUFFIXES, *FOREIGN, "/"))
        yield ImageSource(images, Counter(_suffix(entry.name) or "without a suffix" for entry in files))


def _suffix(name: str) -> str:
    return "/" if name.endswith("/") else PurePosixPath(name).suffix.lower()


def is_hidden(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return any((part.startswith(".") and part != "..") or part in DEBRIS for part in parts)


def _listed(path: Path, held: ExitStack) -> list[Entry]:
    """Every file of the folder or archive at `path`."""
    facts, special = _facts(path), special_devices()
    mode = facts.st_mode
    if kind := special.get(facts.st_dev):
        raise ImagesError(f"`{path}` is on a special file system ({kind}), which holds no images.", f"Give {WANTED}.")
    if stat.S_ISDIR(mode):
        return list(_walk(path, special))
    if not stat.S_ISREG(mode):
        raise ImagesError(f"`{path}` is {_kind(mode)}.", f"Give {WANTED}.")
    if path.suffix.lower() in SUFFIXES:
        raise ImagesError(f"`{path}` is one image; two at least are needed.", f"Give {WANTED}.")
    members = archives.listed(path, held)
    if members is not None:
        return [Entry(printable(name), read) for name, read in members]
    raise ImagesError(f"`{path}` is a file, but neither a .zip nor a .tar.", f"Give {WANTED}.")


def _facts(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _missing(path) from error


def _missing(path: Path) -> ImagesError:
    """Names the part of `path` that does exist, and what was perhaps meant."""
    if path.is_symlink():
        return ImagesError(f"`{path}` is a link to `{path.readlink()}`, which does not exist.", f"Give {WANTED}.")
    nearest = next(parent for parent in path.absolute().parents if parent.exists())
    if not nearest.is_dir():
        return ImagesError(f"there is no `{path}`: `{nearest}` is a file, not a folder.", f"Give {WANTED}.")
    wanted = path.absolute().relative_to(nearest).parts[0]
    close = difflib.get_close_matches(wanted, [entry.name for entry in nearest.iterdir()])
    guess = f"Did you mean `{nearest / close[0]}`?" if close else f"Give {WANTED}."
    return ImagesError(f"there is no `{path}`: `{nearest}` exists, but holds no `{wanted}`.", guess)


def _kind(mode: int) -> str:
    return next((kind for test, kind in KINDS if test(mode)), "a special file")


def _walk(root: Path, special: Mapping[int, str]) -> Iterator[Entry]:
    shut: list[OSError] = []
    for file in files_below(root, shut.append, special):
        yield Entry(_name(file, root), partial(_read_file, file, special))
    for error in shut:
        if Path(error.filename) == root:
            raise error
        yield Entry(_name(Path(error.filename), root) + "/", partial(_refuse, error.strerror or str(error)))


def files_below(
    root: Path, shut: Callable[[OSError], None] | None = None, special: Mapping[int, str] | None = None
) -> Iterator[Path]:
    """The files below `root`, links followed, each folder once: a link to a parent ends there.

    `shut` hears of folders that cannot be read or are on one of the `special` file systems.
    """
    special = special_devices() if special is None else special
    seen: set[tuple[int, int]] = set()
    for folder, below, files in os.walk(root, followlinks=True, onerror=shut):
        here = Path(folder)
        facts = here.stat()
        if (facts.st_dev, facts.st_ino) in seen:
            below.clear()
            continue
        seen.add((facts.st_dev, facts.st_ino))
        if kind := special.get(facts.st_dev):
            below.clear()
            if shut:
                shut(OSError(errno.EINVAL, _on_special(kind), folder))
            continue
        below[:] = sorted(name for name in below if not is_hidden(name))
        yield from (here / name for name in sorted(files))


def _on_special(kind: str) -> str:
    return f"it is on a special file system ({kind}), which holds no images"


def _name(path: Path, root: Path) -> str:
    return printable(path.relative_to(root).as_posix())


def printable(name: str) -> str:
    """A name that any terminal and any file takes: bytes that are no UTF-8 and control characters appear as \\xNN."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def _require_utf8(path: Path) -> None:
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        raise ImagesError(
            f"the path `{printable(str(path))}` is not UTF-8, and a run's record could not name it.",
            "Rename the folder or archive, or give it through a link.",
        ) from None


def _refuse(reason: str) -> bytes:
    raise Refused(reason)


def _read_file(path: Path, special: Mapping[int, str]) -> bytes:
    facts = path.stat()  # before opening: to open a pipe would wait for its writer, for ever perhaps
    if not stat.S_ISREG(facts.st_mode):
        raise Refused(f"it is {_kind(facts.st_mode)}, not a file")
    if kind := special.get(facts.st_dev):
        raise Refused(_on_special(kind))
    bounded(facts.st_size)
    with path.open("rb") as file:
        data = image_bytes(file, (facts.st_size or LARGEST_FILE) + 1)  # some file systems tell no size
    bounded(len(data))
    return data
