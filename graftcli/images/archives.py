"""Read the members of a .zip or .tar without unpacking; refuse decompression bombs before they expand.

Nothing is written to disk, so member names that are absolute or contain ".." do no harm.
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
from graftcli.images.inflating import BoundedReader, Implausible, open_decompressed
from graftcli.images.refusal import LARGEST_FILE, Refused, check_file_size, read_image

_LARGEST_MEMBER = 2**30  # bytes, in a compressed .tar: listing one decompresses every member
_MAX_RATIO, _RATIO_FROM = 100, 2**29  # largest compression ratio, checked above this many decompressed bytes
_MANY_MEMBERS, _MIN_BYTES = 20_000, 32  # above this many members, fewer compressed bytes per member mean a bomb
_HEADER = 2**20  # bytes of the headers of one .tar member
_DIRECTORY = 2**24  # bytes of a .zip directory, or a quarter of the file if that is more
_UNPACK = "unpack it first, and give the folder"

Read = Callable[[], bytes]


class UnreadableArchive(Exception):
    """Why an archive as a whole cannot be read."""


def list_members(path: Path, stack: ExitStack) -> list[tuple[str, Read]] | None:
    """The name of each member and a function that reads it while `stack` is open; None if `path` is no archive."""
    try:
        # tar first: a .tar whose last member is a .zip would be mistaken for a .zip
        return _in_tar(path, stack) or _in_zip(path, stack)
    except (GraftError, UnreadableArchive):
        raise
    except Implausible as error:
        raise UnreadableArchive(f"it has {error}, which no image archive has") from error
    except RecursionError as error:
        raise UnreadableArchive("its headers are nested without end") from error
    except MemoryError as error:
        raise UnreadableArchive(f"listing its members ran out of memory: {_UNPACK}") from error
    except UnicodeDecodeError as error:
        raise UnreadableArchive("a member name is marked as UTF-8 but is not valid UTF-8") from error
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
        raise UnreadableArchive(str(error) or type(error).__name__) from error
    except Exception as error:  # on damaged bytes, archive readers raise anything
        raise UnreadableArchive(f"it is damaged ({type(error).__name__}: {error})") from error


def _in_tar(path: Path, stack: ExitStack) -> list[tuple[str, Read]] | None:
    file = stack.enter_context(path.open("rb"))
    stream = open_decompressed(file)
    guard = BoundedReader(stream or file, _HEADER)
    try:
        archive = tarfile.TarFile(fileobj=guard, mode="r")  # type: ignore[arg-type]
    except tarfile.ReadError:
        return None
    stack.callback(archive.close)
    size = path.stat().st_size
    members: list[tuple[str, Read]] = []
    known: dict[str, tarfile.TarInfo] = {}
    total = 0
    for member in _members(archive, guard, size, stream is not None):
        if member.isdir():
            continue
        target = known.get(os.path.normpath(member.linkname)) if member.islnk() else member
        if target is not None and target.isreg():
            known[os.path.normpath(member.name)] = target
            total += min(target.size, LARGEST_FILE)
        members.append((member.name.removeprefix("./"), partial(_read_tar, archive, member, target)))
    _check_ratio(total, size)
    guard.left = None
    return members


def _members(archive: tarfile.TarFile, guard: BoundedReader, size: int, compressed: bool) -> Iterator[tarfile.TarInfo]:
    """Iterate over the members; raise UnreadableArchive at the first implausible one."""
    count = last = 0
    while (member := archive.next()) is not None:
        stored = archive.offset - member.offset_data
        if member.size < 0 or stored < 0 or member.offset < last:
            raise UnreadableArchive(f"the header of its member {count + 1} is damaged")
        if compressed:
            _check_listing(member.name, stored, archive.offset, count, size)
        yield member
        count, last, guard.left = count + 1, archive.offset, _HEADER
    guard.seek(archive.offset)
    if any(guard.read(tarfile.BLOCKSIZE)):  # tarfile takes a damaged header for the end of the archive
        raise UnreadableArchive(f"the header of its member {count + 1} is damaged")


def _check_listing(name: str, stored: int, end: int, count: int, size: int) -> None:
    """Refuse an archive that would take minutes to list."""
    if stored > _LARGEST_MEMBER:
        raise UnreadableArchive(f"its member `{name}` has {stored / 2**20:,.0f} MiB: {_UNPACK}")
    _check_ratio(end, size)
    if count > _MANY_MEMBERS and count * _MIN_BYTES > size:
        raise UnreadableArchive(
            f"it has more than {count:,} members in {size:,} bytes, which only a decompression bomb has"
        )


def _check_ratio(expanded: int, size: int) -> None:
    if expanded > _RATIO_FROM and expanded > _MAX_RATIO * size:
        message = f"its {size:,} bytes expand to more than {expanded / 2**20:,.0f} MiB"
        raise UnreadableArchive(f"{message}, like a decompression bomb: if it is none, {_UNPACK}")


def _read_tar(archive: tarfile.TarFile, member: tarfile.TarInfo, target: tarfile.TarInfo | None) -> bytes:
    """The bytes of a member, or of the member that a hard link names."""
    if target is None:
        raise Refused(f"it is a link to `{member.linkname}`, which does not precede it in the archive")
    if not target.isreg():
        raise Refused("it is a link or a special file inside the archive")
    check_file_size(target.size)
    stream = archive.extractfile(target) if target.issparse() else None
    if stream is not None:
        return stream.read(target.size)
    source = archive.fileobj
    assert source is not None
    source.seek(target.offset_data)
    return read_image(source, target.size)


def _in_zip(path: Path, stack: ExitStack) -> list[tuple[str, Read]] | None:
    if not zipfile.is_zipfile(path):
        return None
    size = path.stat().st_size
    guard = BoundedReader(stack.enter_context(path.open("rb")), max(_DIRECTORY, size // 4))
    archive = stack.enter_context(zipfile.ZipFile(guard))
    guard.left = None
    members = [member for member in archive.infolist() if not member.is_dir()]
    shared = _overlapping(archive)
    _check_ratio(sum(min(member.file_size, LARGEST_FILE) for member in members), size)
    return [
        (member.filename.replace("\\", "/"), partial(_read_zip, archive, member, id(member) in shared))
        for member in members
    ]


def _overlapping(archive: zipfile.ZipFile) -> set[int]:
    """The ids of members that share bytes with another: a bomb reads the same bytes thousands of times."""
    if not (members := sorted(archive.infolist(), key=lambda member: member.header_offset)):
        return set()
    ends = [member.header_offset + 30 + len(member.orig_filename) + member.compress_size for member in members]
    starts = [*(member.header_offset for member in members[1:]), archive.start_dir]
    return {id(member) for member, end, start in zip(members, ends, starts, strict=True) if end > start}


def _read_zip(archive: zipfile.ZipFile, member: zipfile.ZipInfo, overlaps: bool) -> bytes:
    if member.flag_bits & 1:
        raise Refused("it is encrypted")
    if overlaps:
        raise Refused("its bytes overlap those of another member, which happens only in a decompression bomb")
    check_file_size(member.file_size)
    with archive.open(member) as stream:
        if member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            # never read() without a size: it inflates the whole member, even if its declared size is wrong
            return read_image(stream, member.file_size)
        return b"".join(_pieces(stream, member.file_size))


def _pieces(stream: IO[bytes], size: int) -> Iterator[bytes]:
    """At most `size` bytes, in small reads: bz2 and others decompress all of their input at once."""
    while size and (piece := stream.read(min(size, 4096))):
        yield piece
        size -= len(piece)
