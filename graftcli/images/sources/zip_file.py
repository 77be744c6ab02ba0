"""Images in a .zip, which is not unpacked."""

import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import IO, BinaryIO

from graftcli.images.inflating import BoundedReader
from graftcli.images.refusal import LARGEST_FILE, Refused, check_file_size, read_image
from graftcli.images.sources.archive import archive_errors, check_ratio
from graftcli.images.sources.place import Place, size_of
from graftcli.images.sources.source import Entry, Files, Listed, Source, printable

_DIRECTORY = 2**24  # bytes of the directory, or a quarter of the file if that is more


def _files(place: Place, stack: ExitStack) -> Files | None:
    if not place.is_file():
        return None
    with archive_errors():
        file = stack.enter_context(place.open("rb"))
        return Listed(_members(file, size_of(place), stack), place) if zipfile.is_zipfile(file) else None


def _members(file: BinaryIO, size: int, stack: ExitStack) -> list[Entry]:
    guard = BoundedReader(file, max(_DIRECTORY, size // 4))
    archive = stack.enter_context(zipfile.ZipFile(guard))
    guard.left = None
    members = [member for member in archive.infolist() if not member.is_dir()]
    shared = _overlapping(archive)
    check_ratio(sum(min(member.file_size, LARGEST_FILE) for member in members), size)
    return [
        Entry(
            printable(member.filename.replace("\\", "/")), partial(_read_member, archive, member, id(member) in shared)
        )
        for member in members
    ]


def _overlapping(archive: zipfile.ZipFile) -> set[int]:
    """The ids of members that share bytes with another, as in a bomb that reads the same bytes thousands of times."""
    if not (members := sorted(archive.infolist(), key=lambda member: member.header_offset)):
        return set()
    ends = [member.header_offset + 30 + len(member.orig_filename) + member.compress_size for member in members]
    starts = [*(member.header_offset for member in members[1:]), archive.start_dir]
    return {id(member) for member, end, start in zip(members, ends, starts, strict=True) if end > start}


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, overlaps: bool) -> bytes:
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


ZIP = Source(".zip", _files)
