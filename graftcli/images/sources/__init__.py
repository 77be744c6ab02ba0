"""Find image files in a folder or an archive. `SOURCES` lists the kinds of sources, one file each.

Files are found by suffix; their content is not inspected. Reading a file that is not allowed or not readable raises
`Refused` with the reason.
"""

import difflib
import os
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from graftcli.errors import ImagesError
from graftcli.formatting import one_of
from graftcli.images.file_formats import SUFFIXES, UNSUPPORTED
from graftcli.images.sources.folder import FOLDER, kind_of_file
from graftcli.images.sources.source import Entry, UnreadableSource, is_hidden, printable
from graftcli.images.sources.tar_file import TAR
from graftcli.images.sources.zip_file import ZIP
from graftcli.images.special import special_devices

__all__ = ["EXPECTED", "NAMES", "SOURCES", "SUPPORTED", "Entry", "SourceFiles", "open_source"]

# In the order of messages, and tried in reverse: a .tar whose last member is a .zip would be mistaken for a .zip.
SOURCES = (FOLDER, ZIP, TAR)
NAMES = tuple(source.name for source in SOURCES)
EXPECTED = f"a {NAMES[0]} of images, or a {one_of(NAMES[1:])} of them"
SUPPORTED = f"Give {EXPECTED}. Supported formats: {', '.join(suffix[1:] for suffix in SUFFIXES)}."


@dataclass(frozen=True)
class SourceFiles:
    """The files of an open source: those with the suffix of an image, and the suffixes of all."""

    entries: tuple[Entry, ...]
    suffixes: Counter[str]


@contextmanager
def open_source(path: Path) -> Iterator[SourceFiles]:
    """Open a folder or archive; its entries can be read until the context ends."""
    path = path.expanduser()
    _require_utf8(path)
    with ExitStack() as stack:
        try:
            _check_path(path)
            files = [entry for entry in _list_files(path, stack) if not is_hidden(entry.name)]
        except (OSError, ValueError, UnreadableSource) as error:
            raise ImagesError(f"`{path}` cannot be read: {printable(str(error))}", f"Give {EXPECTED}.") from error
        images = tuple(entry for entry in files if _suffix(entry.name) in (*SUFFIXES, *UNSUPPORTED, "/"))
        yield SourceFiles(images, Counter(_suffix(entry.name) or "without a suffix" for entry in files))


def _suffix(name: str) -> str:
    return "/" if name.endswith("/") else PurePosixPath(name).suffix.lower()


def _list_files(path: Path, stack: ExitStack) -> list[Entry]:
    """Every file of the source at `path`."""
    for source in reversed(SOURCES):
        if (entries := source.entries(path, stack)) is not None:
            return entries
    raise ImagesError(f"`{path}` is neither a {NAMES[0]} nor a {one_of(NAMES[1:])}.", f"Give {EXPECTED}.")


def _check_path(path: Path) -> None:
    """Refuse paths that hold no source of any kind."""
    status = _status(path)
    mode = status.st_mode
    if kind := special_devices().get(status.st_dev):
        raise ImagesError(f"`{path}` is on a special file system ({kind}), which holds no images.", f"Give {EXPECTED}.")
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise ImagesError(f"`{path}` is {kind_of_file(mode)}.", f"Give {EXPECTED}.")
    if stat.S_ISREG(mode) and path.suffix.lower() in SUFFIXES:
        raise ImagesError(f"`{path}` is a single image; at least two are needed.", f"Give {EXPECTED}.")


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


def _require_utf8(path: Path) -> None:
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        raise ImagesError(
            f"the path `{printable(str(path))}` is not UTF-8, so the run record cannot name it.",
            "Rename the folder or archive, or give a link to it.",
        ) from None
