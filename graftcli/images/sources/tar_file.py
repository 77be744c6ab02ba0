"""Images in a .tar, plain or compressed, which is not unpacked."""

import os
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from graftcli.images.inflating import BoundedReader, open_decompressed
from graftcli.images.refusal import LARGEST_FILE, Refused, check_file_size, read_image
from graftcli.images.sources.archive import UNPACK, archive_errors, check_ratio
from graftcli.images.sources.source import Entry, Source, UnreadableSource, printable

_LARGEST_MEMBER = 2**30  # bytes, in a compressed .tar: listing one decompresses every member
_MANY_MEMBERS, _MIN_BYTES = 20_000, 32  # above this many members, fewer compressed bytes per member mean a bomb
_HEADER = 2**20  # bytes of the headers of one member


def _entries(path: Path, stack: ExitStack) -> list[Entry] | None:
    if not path.is_file():
        return None
    with archive_errors():
        return _list_members(path, stack)


def _list_members(path: Path, stack: ExitStack) -> list[Entry] | None:
    file = stack.enter_context(path.open("rb"))
    stream = open_decompressed(file)
    guard = BoundedReader(stream or file, _HEADER)
    try:
        archive = tarfile.TarFile(fileobj=guard, mode="r")  # type: ignore[arg-type]
    except tarfile.ReadError:
        return None
    stack.callback(archive.close)
    size = path.stat().st_size
    entries: list[Entry] = []
    known: dict[str, tarfile.TarInfo] = {}
    total = 0
    for member in _members(archive, guard, size, stream is not None):
        if member.isdir():
            continue
        target = known.get(os.path.normpath(member.linkname)) if member.islnk() else member
        if target is not None and target.isreg():
            known[os.path.normpath(member.name)] = target
            total += min(target.size, LARGEST_FILE)
        name = printable(member.name.removeprefix("./"))
        entries.append(Entry(name, partial(_read_member, archive, member, target)))
    check_ratio(total, size)
    guard.left = None
    return entries or None  # zeros look like an empty .tar


def _members(archive: tarfile.TarFile, guard: BoundedReader, size: int, compressed: bool) -> Iterator[tarfile.TarInfo]:
    """Iterate over the members; raise UnreadableSource at the first implausible one."""
    count = last = 0
    while (member := archive.next()) is not None:
        stored = archive.offset - member.offset_data
        if member.size < 0 or stored < 0 or member.offset < last:
            raise UnreadableSource(f"the header of its member {count + 1} is damaged")
        if compressed:
            _check_listing(member.name, stored, archive.offset, count, size)
        yield member
        count, last, guard.left = count + 1, archive.offset, _HEADER
    guard.seek(archive.offset)
    if any(guard.read(tarfile.BLOCKSIZE)):  # tarfile takes a damaged header for the end of the archive
        raise UnreadableSource(f"the header of its member {count + 1} is damaged")


def _check_listing(name: str, stored: int, end: int, count: int, size: int) -> None:
    """Refuse an archive that would take minutes to list."""
    if stored > _LARGEST_MEMBER:
        raise UnreadableSource(f"its member `{name}` has {stored / 2**20:,.0f} MiB: {UNPACK}")
    check_ratio(end, size)
    if count > _MANY_MEMBERS and count * _MIN_BYTES > size:
        raise UnreadableSource(
            f"it has more than {count:,} members in {size:,} bytes, which only a decompression bomb has"
        )


def _read_member(archive: tarfile.TarFile, member: tarfile.TarInfo, target: tarfile.TarInfo | None) -> bytes:
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


TAR = Source(".tar", _entries)
