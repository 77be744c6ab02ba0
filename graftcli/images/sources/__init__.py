"""Find image files in folders, archives and tables, local or at a URL. `SOURCES` lists the kinds, one file each.

Files are found by suffix, without reading their content. Reading a file that is not allowed or not readable raises
`Refused` with the reason.
"""

import difflib
import os
import stat
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from graftcli.errors import GraftError, ImagesError
from graftcli.formatting import one_of
from graftcli.images.file_formats import SUFFIXES, UNSUPPORTED
from graftcli.images.sources.arrow_file import ARROW
from graftcli.images.sources.folder import FOLDER, kind_of_file
from graftcli.images.sources.list_file import list_source
from graftcli.images.sources.parquet_file import PARQUET
from graftcli.images.sources.place import Place, is_url, places_of, source_text
from graftcli.images.sources.shards import opened_shards, shards_in
from graftcli.images.sources.source import Chosen, Entry, Files, UnreadableSource, is_hidden, printable
from graftcli.images.sources.tar_file import TAR
from graftcli.images.sources.zip_file import ZIP
from graftcli.images.special import special_devices

__all__ = ["EXPECTED", "NAMES", "SOURCES", "SUPPORTED", "Entry", "Files", "SourceFiles", "open_source"]

# In the order of messages. They are tried in reverse, because a .tar whose last member is a .zip looks like a .zip.
SOURCES = (FOLDER, ZIP, TAR, PARQUET, ARROW, list_source(lambda text, stack: _open_all(text, stack)))
NAMES = tuple(source.name for source in SOURCES)
EXPECTED = f"a {NAMES[0]} of images, or a {one_of(NAMES[1:])} of them"
SHARD_SUFFIXES = tuple(suffix for source in SOURCES for suffix in source.shards)
SUPPORTED = f"Give {EXPECTED}. Supported formats: {', '.join(suffix[1:] for suffix in SUFFIXES)}."


@dataclass(frozen=True)
class SourceFiles:
    """The files of an open source: those with the suffix of an image, and the suffixes of all."""

    entries: Files
    suffixes: Counter[str]
    selection: tuple[int, ...] | None = None  # the indices of `entries` among all images of the source; None for all

    def chosen(self, indices: Sequence[int]) -> "SourceFiles":
        """The same source with only these entries."""
        selection = indices if self.selection is None else [self.selection[index] for index in indices]
        return SourceFiles(Chosen(self.entries, indices), self.suffixes, tuple(selection))


@contextmanager
def open_source(source: str | Path) -> Iterator[SourceFiles]:
    """Open a folder, archive, table, pattern or URL; its entries can be read until the context ends.

    The order of the entries depends only on the source, so that each of many workers can open it and read its share.
    """
    text = source_text(source)
    _require_utf8(text)
    with ExitStack() as stack:
        try:
            files = _images(_open_all(text, stack))
        except (OSError, ValueError, UnreadableSource) as error:
            raise _unreadable(text, error) from error
        except Exception as error:
            if isinstance(error, GraftError) or not is_url(text):
                raise
            raise _unreadable(text, error) from error  # file systems for URLs raise their own exceptions
        yield files


def _unreadable(text: str, error: Exception) -> ImagesError:
    reason = printable(str(error)) or type(error).__name__
    return ImagesError(f"`{text}` cannot be read: {reason}", f"Give {EXPECTED}.")


def _open_all(text: str, stack: ExitStack) -> Files:
    """Open every file or folder that the source refers to."""
    places = places_of(text)
    for place in places:
        _check_place(place)
    if len(places) == 1 and places[0].is_dir():
        places = tuple(shards_in(places[0], SHARD_SUFFIXES)) or places
    files = opened_shards(places, _open_one, stack) if len(places) > 1 else _open_one(places[0], stack)
    if files is None:
        raise ImagesError(f"`{text}` is neither a {NAMES[0]} nor a {one_of(NAMES[1:])}.", f"Give {EXPECTED}.")
    return files


def _open_one(place: Place, stack: ExitStack) -> Files | None:
    for source in reversed(SOURCES):
        if (files := source.files(place, stack)) is not None:
            return files
    return None


def _images(files: Files) -> SourceFiles:
    """Keep the files with the suffix of an image, and count all suffixes."""
    chosen, suffixes = array("Q"), Counter[str]()
    for index, entry in enumerate(files):
        if is_hidden(entry.name):
            continue
        suffix = _suffix(entry.name)
        suffixes[suffix or "without a suffix"] += 1
        if files.is_images or suffix in (*SUFFIXES, *UNSUPPORTED, "/"):
            chosen.append(index)
    return SourceFiles(files if len(chosen) == len(files) else Chosen(files, chosen), suffixes)


def _suffix(name: str) -> str:
    return "/" if name.endswith("/") else PurePosixPath(name).suffix.lower()


def _check_place(place: Place) -> None:
    """Refuse places that cannot be a source of any kind."""
    if not isinstance(place, Path):
        if not place.is_dir() and not place.is_file():
            raise ImagesError(f"there is no `{place}`.", f"Give {EXPECTED}.")
        return
    status = _status(place)
    mode = status.st_mode
    if kind := special_devices().get(status.st_dev):
        raise ImagesError(
            f"`{place}` is on a special file system ({kind}), which holds no images.", f"Give {EXPECTED}."
        )
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise ImagesError(f"`{place}` is {kind_of_file(mode)}.", f"Give {EXPECTED}.")
    if stat.S_ISREG(mode) and place.suffix.lower() in SUFFIXES:
        raise ImagesError(f"`{place}` is a single image; at least two are needed.", f"Give {EXPECTED}.")


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


def _require_utf8(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ImagesError(
            f"the path `{printable(text)}` is not UTF-8, so the run record cannot name it.",
            "Rename the folder or archive, or give a link to it.",
        ) from None
