"""Where images come from: a folder, flat or nested, or one .zip or .tar of them, read without unpacking.

Nothing here knows what is in an image: it finds files by their suffix and hands over their bytes.
A file that must not or cannot be read raises `Refused`, which says why, when its turn comes.
"""

import difflib
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from graftcli.errors import ImagesError

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
# Pictures for a person's eye, but not for this reader: naming them is kinder than passing them over.
FOREIGN = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".psd", ".svg", ".dng", ".cr2", ".nef", ".arw")
# Folders of miniatures and forks that other systems leave behind.
DEBRIS = ("__MACOSX", "@eaDir")
LARGEST_FILE = 256 * 2**20
# What a folder, a .zip or a .tar raises when it cannot be listed.
UNREADABLE = (OSError, EOFError, ValueError, tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
WANTED = "a folder of images, or one .zip or .tar of them"

KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISDIR, "a folder"),
)


class Refused(Exception):
    """Why one file is not read."""


@dataclass(frozen=True)
class Entry:
    """A file that should be an image: `read` gives its bytes, or raises Refused or what the reading raises."""

    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Source:
    entries: tuple[Entry, ...]
    suffixes: Counter[str]  # of every file that was looked at, also of those that are no images


@contextmanager
def opened(path: Path) -> Iterator[Source]:
    """What lies at `path`; the bytes of its entries can be read until the context ends."""
    path = path.expanduser()
    with ExitStack() as held:
        try:
            files = [entry for entry in _listed(path, held) if not is_hidden(entry.name)]
        except UNREADABLE as error:
            raise ImagesError(f"`{path}` cannot be read: {error}", f"Give {WANTED}.") from error
        images = tuple(entry for entry in files if _suffix(entry.name) in (*SUFFIXES, *FOREIGN, "/"))
        yield Source(images, Counter(_suffix(entry.name) or "without a suffix" for entry in files))


def _suffix(name: str) -> str:
    return "/" if name.endswith("/") else PurePosixPath(name).suffix.lower()


def is_hidden(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return any((part.startswith(".") and part != "..") or part in DEBRIS for part in parts)


def _listed(path: Path, held: ExitStack) -> list[Entry]:
    """Every file of the folder or archive at `path`."""
    mode = _mode(path)
    if stat.S_ISDIR(mode):
        return list(_walk(path))
    if not stat.S_ISREG(mode):
        raise ImagesError(f"`{path}` is {_kind(mode)}.", f"Give {WANTED}.")
    if path.suffix.lower() in SUFFIXES:
        raise ImagesError(f"`{path}` is one image; two at least are needed.", f"Give {WANTED}.")
    # tar first: a .tar whose last member is a .zip would be taken for that .zip
    if tarfile.is_tarfile(path):
        return _in_tar(held.enter_context(tarfile.open(path)))
    if zipfile.is_zipfile(path):
        return _in_zip(held.enter_context(zipfile.ZipFile(path)))
    raise ImagesError(f"`{path}` is a file, but neither a .zip nor a .tar.", f"Give {WANTED}.")


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
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


def _walk(root: Path) -> Iterator[Entry]:
    shut: list[OSError] = []
    yield from (Entry(_printable(file, root), partial(_read_file, file)) for file in files_below(root, shut.append))
    for error in shut:
        if Path(error.filename) == root:
            raise error
        yield Entry(_printable(Path(error.filename), root) + "/", partial(_refuse, error.strerror or str(error)))


def files_below(root: Path, shut: Callable[[OSError], None] | None = None) -> Iterator[Path]:
    """The files below `root`, links followed, each folder once: a link to a parent ends there. `shut` hears of folders
    that cannot be read."""
    seen: set[tuple[int, int]] = set()
    for folder, below, files in os.walk(root, followlinks=True, onerror=shut):
        here = Path(folder)
        facts = here.stat()
        if (facts.st_dev, facts.st_ino) in seen:
            below.clear()
            continue
        seen.add((facts.st_dev, facts.st_ino))
        below[:] = sorted(name for name in below if not is_hidden(name))
        yield from (here / name for name in sorted(files))


def _printable(path: Path, root: Path) -> str:
    """The name relative to `root`, with "/"; bytes that are no UTF-8 appear as \\xNN, so that any terminal takes it."""
    return os.fsencode(path.relative_to(root).as_posix()).decode("utf-8", "backslashreplace")


def _refuse(reason: str) -> bytes:
    raise Refused(reason)


def _bounded(size: int) -> None:
    if size > LARGEST_FILE:
        raise Refused(f"its size is {size / 2**20:,.0f} MiB; {LARGEST_FILE // 2**20} MiB is the most that is read")


def _read_file(path: Path) -> bytes:
    facts = path.stat()  # before opening: to open a pipe would wait for its writer, for ever perhaps
    if not stat.S_ISREG(facts.st_mode):
        raise Refused(f"it is {_kind(facts.st_mode)}, not a file")
    _bounded(facts.st_size)
    return path.read_bytes()


def _in_zip(archive: zipfile.ZipFile) -> list[Entry]:
    members = [member for member in archive.infolist() if not member.is_dir()]
    return [Entry(member.filename.replace("\\", "/"), partial(_read_zip, archive, member)) for member in members]


def _read_zip(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    if member.flag_bits & 1:
        raise Refused("it is locked with a password")
    _bounded(member.file_size)
    with archive.open(member) as stream:
        # never plain read(): a member that lies about its size would be inflated whole before it is cut
        return stream.read(member.file_size)


def _in_tar(archive: tarfile.TarFile) -> list[Entry]:
    members = [member for member in archive.getmembers() if not member.isdir()]
    return [Entry(member.name.removeprefix("./"), partial(_read_tar, archive, member)) for member in members]


def _read_tar(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """The member's bytes; a hard link gives those of the member that it names."""
    stream = archive.extractfile(member) if member.isreg() or member.islnk() else None
    if stream is None:
        raise Refused("it is a link or a special file inside the archive")
    _bounded(member.size)
    data = stream.read(LARGEST_FILE + 1)
    _bounded(len(data))
    return data
