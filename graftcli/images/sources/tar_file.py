"""Images in a .tar, plain or compressed, which is not unpacked."""

import os
import tarfile
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from typing import BinaryIO

from graftcli.images.inflating import BoundedReader, open_decompressed
from graftcli.images.refusal import LARGEST_FILE, Refused, Stream, check_file_size, read_image
from graftcli.images.sources.archive import UNPACK, archive_errors, check_ratio
from graftcli.images.sources.place import Place, size_of, stamp
from graftcli.images.sources.source import Entry, Files, PackedNames, Source, UnreadableSource, printable

_LARGEST_MEMBER = 2**30  # bytes, in a compressed .tar: listing one decompresses every member
_MANY_MEMBERS, _MIN_BYTES = 20_000, 32  # above this many members, fewer compressed bytes per member mean a bomb
_HEADER = 2**20  # bytes of the headers of one member


def _files(place: Place, stack: ExitStack) -> Files | None:
    if not place.is_file():
        return None
    with archive_errors():
        members = _Members(place)
        stack.callback(members.release)
        return members if members.read_headers() else None


class _Members(Files):
    """The members of a .tar that are no folders: names, offsets and sizes."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._names, self._offsets, self._sizes = PackedNames(), array("Q"), array("Q")
        self._sparse: dict[int, tarfile.TarInfo] = {}
        self._refused: dict[int, str] = {}  # why a member is not read
        self._known: dict[str, int] | None = None  # members by name, from the first hard link on
        self._file: BinaryIO | None = None
        self._stream: Stream | None = None

    def __len__(self) -> int:
        return len(self._names)

    def entry(self, index: int) -> Entry:
        """The file at an index from 0."""
        return Entry(printable(self._names[index].removeprefix("./")), partial(self._read, index))

    def state(self) -> Iterator[str]:
        """The state of the archive: its members change with it."""
        yield stamp(self._place)

    def release(self) -> None:
        """Close the archive; the next read opens it again."""
        if self._file is not None:
            self._file.close()
        self._file = self._stream = None

    def read_headers(self) -> bool:
        """List the members; False if the file is no .tar."""
        with closing(self._place.open("rb")) as file:
            stream, size = open_decompressed(file), size_of(self._place)
            guard = BoundedReader(stream or file, _HEADER)
            try:
                archive = tarfile.TarFile(fileobj=guard, mode="r")  # type: ignore[arg-type]
            except tarfile.ReadError:
                return False
            check_ratio(sum(map(self._add, _members(archive, guard, size, stream is not None))), size)
        return len(self) > 0  # zeros look like an empty .tar

    def _add(self, member: tarfile.TarInfo) -> int:
        """Record what is needed to read a member; return its size."""
        if member.isdir():
            return 0
        index, offset, size = len(self), member.offset_data, member.size
        if member.islnk():
            offset, size = self._target(index, member)
        elif not member.isreg():
            self._refused[index] = "it is a link or a special file inside the archive"
        elif member.issparse():
            self._sparse[index] = member
        self._names.append(member.name)
        self._offsets.append(offset)
        self._sizes.append(size)
        if index in self._refused:
            return 0
        if self._known is not None:
            self._known[os.path.normpath(member.name)] = index
        return min(size, LARGEST_FILE)

    def _target(self, index: int, member: tarfile.TarInfo) -> tuple[int, int]:
        """The offset and size of the member that a hard link names."""
        if self._known is None:
            self._known = {os.path.normpath(self._names[i]): i for i in range(index) if i not in self._refused}
        other = self._known.get(os.path.normpath(member.linkname))
        if other is None:
            self._refused[index] = f"it is a link to `{member.linkname}`, which does not precede it in the archive"
            return 0, 0
        if other in self._sparse:
            self._sparse[index] = self._sparse[other]
        return self._offsets[other], self._sizes[other]

    def _read(self, index: int) -> bytes:
        if (reason := self._refused.get(index)) is not None:
            raise Refused(reason)
        check_file_size(self._sizes[index])
        stream = self._opened()
        if (sparse := self._sparse.get(index)) is not None:
            stream.seek(0)
            with tarfile.TarFile(fileobj=stream, mode="r") as archive:  # type: ignore[arg-type]
                member = archive.extractfile(sparse)
                return b"" if member is None else member.read(sparse.size)
        stream.seek(self._offsets[index])
        return read_image(stream, self._sizes[index])

    def _opened(self) -> Stream:
        if self._stream is None:
            self._file = self._place.open("rb")
            self._stream = open_decompressed(self._file) or self._file
        return self._stream


def _members(archive: tarfile.TarFile, guard: BoundedReader, size: int, compressed: bool) -> Iterator[tarfile.TarInfo]:
    """Iterate over the members; raise UnreadableSource at the first implausible one."""
    count = last = 0
    while (member := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # tarfile keeps a kilobyte of each
        stored = archive.offset - member.offset_data
        if member.size < 0 or stored < 0 or member.offset < last:
            raise UnreadableSource(f"the header of its member {count + 1} is damaged")
        if compressed:
            _check_listing(member.name, stored, archive.offset, count, size)
        yield member
        count, last, guard.left = count + 1, archive.offset, _HEADER
    guard.seek(archive.offset)
    if any(guard.read(tarfile.BLOCKSIZE)):  # tarfile treats a damaged header as the end of the archive
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


TAR = Source(".tar", _files, shards=(".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst"))
