"""The members of a .zip or .tar, read without unpacking; a decompression bomb is refused before it expands.

Names are only labels here: nothing is written, so an absolute one or one with ".." leads nowhere.
"""

import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import IO

from graftcli.errors import GraftError
from graftcli.images.inflating import Absurd, Guarded, inflated
from graftcli.images.refusal import LARGEST_FILE, Refused, bounded, image_bytes

_LARGEST_MEMBER = 2**30  # of a compressed .tar, whose listing decompresses all of it
_PLENTY, _RATIO = 2**29, 100  # bytes from which an archive must not be so much smaller than what it gives
_MANY, _SMALLEST = 20_000, 32  # above this many members, each has at least these bytes of a compressed .tar
_HEADER = 2**20  # bytes of one member's headers in a .tar
_DIRECTORY = 2**24  # bytes of a .zip's directory; a larger one may be a quarter of its file
_UNPACK = "unpack it first, and give the folder"

Read = Callable[[], bytes]


class Unreadable(Exception):
    """Why a whole archive is not read."""


def listed(path: Path, held: ExitStack) -> list[tuple[str, Read]] | None:
    """Each member's name and a function that reads it while `held` is open; None where the file is no archive."""
    try:
        # tar first: a .tar whose last member is a .zip would be taken for that .zip
        return _in_tar(path, held) or _in_zip(path, held)
    except (GraftError, Unreadable):
        raise
    except Absurd as error:
        raise Unreadable(f"it has {error}, as no archive of images has") from error
    except RecursionError as error:
        raise Unreadable("its headers lie inside each other without end") from error
    except MemoryError as error:
        raise Unreadable(f"memory ran out while its members were listed: {_UNPACK}") from error
    except UnicodeDecodeError as error:
        raise Unreadable("a member's name is marked as UTF-8, and is not") from error
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
        raise Unreadable(str(error) or type(error).__name__) from error
    except Exception as error:  # damaged bytes lead the readers of archives to any exception there is
        raise Unreadable(f"it is damaged ({type(error).__name__}: {error})") from error


def _in_tar(path: Path, held: ExitStack) -> list[tuple[str, Read]] | None:
    file = held.enter_context(path.open("rb"))
    stream = inflated(file)
    guard = Guarded(stream or file, _HEADER)
    try:
        archive = tarfile.TarFile(fileobj=guard, mode="r")  # type: ignore[arg-type]
    except tarfile.ReadError:
        return None
    held.callback(archive.close)
    size = path.stat().st_size
    members: list[tuple[str, Read]] = []
    known: dict[str, tarfile.TarInfo] = {}
    given = 0
    for member in _members(archive, guard, size, stream is not None):
        if member.isdir():
            continue
        target = known.get(os.path.normpath(member.linkname)) if member.islnk() else member
        if target is not None and target.isreg():
            known[os.path.normpath(member.name)] = target
            given += min(target.size, LARGEST_FILE)
        members.append((member.name.removeprefix("./"), partial(_read_tar, archive, member, target)))
    _plausible(given, size)
    guard.left = None
    return members


def _members(archive: tarfile.TarFile, guard: Guarded, size: int, compressed: bool) -> Iterator[tarfile.TarInfo]:
    """The members, as long as they are plausible."""
    count = last = 0
    while (member := archive.next()) is not None:
        stored = archive.offset - member.offset_data
        if member.size < 0 or stored < 0 or member.offset < last:
            raise Unreadable(f"the header of its member {count + 1} is damaged")
        if compressed:
            _as_expected(member.name, stored, archive.offset, count, size)
        yield member
        count, last, guard.left = count + 1, archive.offset, _HEADER
    guard.seek(archive.offset)
    if any(guard.read(tarfile.BLOCKSIZE)):  # tarfile takes a damaged header for the end, and would lose what follows
        raise Unreadable(f"the header of its member {count + 1} is damaged")


def _as_expected(name: str, stored: int, end: int, count: int, size: int) -> None:
    """Refuse what would take minutes to list."""
    if stored > _LARGEST_MEMBER:
        raise Unreadable(f"its member `{name}` has {stored / 2**20:,.0f} MiB: {_UNPACK}")
    _plausible(end, size)
    if count > _MANY and count * _SMALLEST > size:
        raise Unreadable(f"it has more than {count:,} members in {size:,} bytes, as only a decompression bomb has")


def _plausible(given: int, size: int) -> None:
    if given > _PLENTY and given > _RATIO * size:
        found = f"its {size:,} bytes become more than {given / 2**20:,.0f} MiB"
        raise Unreadable(f"{found}, as only a decompression bomb's do: if it is none, {_UNPACK}")


def _read_tar(archive: tarfile.TarFile, member: tarfile.TarInfo, target: tarfile.TarInfo | None) -> bytes:
    """The member's bytes; a hard link gives those of the member that it names."""
    if target is None:
        raise Refused(f"it is a link to `{member.linkname}`, which is not in the archive before it")
    if not target.isreg():
        raise Refused("it is a link or a special file inside the archive")
    bounded(target.size)
    stream = archive.extractfile(target) if target.issparse() else None
    if stream is not None:
        return stream.read(target.size)
    source = archive.fileobj
    assert source is not None
    source.seek(target.offset_data)
    return image_bytes(source, target.size)


def _in_zip(path: Path, held: ExitStack) -> list[tuple[str, Read]] | None:
    if not zipfile.is_zipfile(path):
        return None
    size = path.stat().st_size
    guard = Guarded(held.enter_context(path.open("rb")), max(_DIRECTORY, size // 4))
    archive = held.enter_context(zipfile.ZipFile(guard))
    guard.left = None
    members = [member for member in archive.infolist() if not member.is_dir()]
    shared = _overlapping(archive)
    _plausible(sum(min(member.file_size, LARGEST_FILE) for member in members), size)
    return [
        (member.filename.replace("\\", "/"), partial(_read_zip, archive, member, id(member) in shared))
        for member in members
    ]


def _overlapping(archive: zipfile.ZipFile) -> set[int]:
    """The ids of members whose bytes belong to another member too: a few bytes could be read thousands of times."""
    if not (members := sorted(archive.infolist(), key=lambda member: member.header_offset)):
        return set()
    ends = [member.header_offset + 30 + len(member.orig_filename) + member.compress_size for member in members]
    starts = [*(member.header_offset for member in members[1:]), archive.start_dir]
    return {id(member) for member, end, start in zip(members, ends, starts, strict=True) if end > start}


def _read_zip(archive: zipfile.ZipFile, member: zipfile.ZipInfo, overlaps: bool) -> bytes:
    if member.flag_bits & 1:
        raise Refused("it is locked with a password")
    if overlaps:
        raise Refused("its bytes overlap those of another member, as only a decompression bomb's do")
    bounded(member.file_size)
    with archive.open(member) as stream:
        if member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # never plain read(): a member that lies about its size would be inflated whole before it is cut
            return image_bytes(stream, member.file_size)
        return b"".join(_pieces(stream, member.file_size))


def _pieces(stream: IO[bytes], size: int) -> Iterator[bytes]:
    """At most `size` bytes. Methods such as bz2 decompress all they are given at once, so they are given little."""
    while size and (piece := stream.read(min(size, 4096))):
        yield piece
        size -= len(piece)
