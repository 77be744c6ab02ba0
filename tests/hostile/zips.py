"""Hostile .zip files."""

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

from tests.hostile.tars import picture

STORED, DEFLATED, BZIP2, LZMA = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA


@dataclass(frozen=True)
class Item:
    """A member as it is written; what is None is as it should be."""

    name: bytes
    data: bytes  # as it lies in the file
    size: int | None = None  # of the unpacked data, as declared
    method: int = STORED
    flags: int = 0
    checksum: int | None = None
    offset: int | None = None
    packed: int | None = None  # of the packed data, as declared

    def facts(self) -> bytes:
        size = len(self.data) if self.size is None else self.size
        packed = len(self.data) if self.packed is None else self.packed
        checksum = zlib.crc32(self.data) if self.checksum is None else self.checksum
        return struct.pack("<HHHHHIII", 20, self.flags, self.method, 0, 33, checksum, packed, size)

    def local(self) -> bytes:
        return b"PK\3\4" + self.facts() + struct.pack("<HH", len(self.name), 0) + self.name + self.data

    def central(self, offset: int) -> bytes:
        rest = struct.pack(
            "<HHHHHII", len(self.name), 0, 0, 0, 0, 0, self.offset if self.offset is not None else offset
        )
        return b"PK\1\2" + struct.pack("<H", 20) + self.facts() + rest + self.name


def zipped(items: Sequence[Item], *, count: int | None = None, size: int | None = None, comment: bytes = b"") -> bytes:
    """An archive of these members; `count` and `size` of the directory may be lies."""
    body, offsets = bytearray(), []
    for item in items:
        offsets.append(len(body))
        if item.offset is None:
            body += item.local()
    directory = b"".join(item.central(offset) for item, offset in zip(items, offsets, strict=True))
    declared = min(len(items) if count is None else count, 2**16 - 1)
    end = struct.pack(
        "<HHHHIIH", 0, 0, declared, declared, len(directory) if size is None else size, len(body), len(comment)
    )
    return bytes(body) + directory + b"PK\5\6" + end + comment


def sound() -> list[Item]:
    return [Item(b"a.png", picture(0)), Item(b"b.png", picture(1))]


def _around(*items: Item) -> Callable[[], bytes]:
    return lambda: zipped([*sound(), *items, Item(b"z.png", picture(2))])


@cache
def packed(method: int, size: int) -> bytes:
    """Zeros, packed."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr("x", bytes(size))
        info = archive.getinfo("x")
    return stream.getvalue()[31 : 31 + info.compress_size]


def _bomb(method: int, declared: int) -> Callable[[], bytes]:
    return lambda: _around(Item(b"bomb.png", packed(method, 2**26), declared, method))()


def _same(count: int) -> bytes:
    """Many members that are all one."""
    items = [Item(b"0.png", packed(DEFLATED, 2**27), 2**27, DEFLATED)]
    items += [replace(items[0], name=b"%d.png" % i, offset=0) for i in range(1, count)]
    return zipped([*items, *sound()])


def _quoted(count: int) -> bytes:
    """Each member's data goes on to the end of the last one's, past the headers of all between them."""
    kernel, last = packed(DEFLATED, 2**24), b"%d.png" % count
    file, members = Item(last, kernel, 2**24, DEFLATED).local(), [(last, len(kernel))]
    for number in reversed(range(count)):
        name, quote = b"%d.png" % number, struct.pack("<BHH", 0, 30 + len(members[0][0]), 2**16 - 1)
        item = Item(name, quote, 2**24, DEFLATED, packed=len(quote) + len(file))
        members.insert(0, (name, len(quote) + len(file)))
        file = item.local() + file
    directory, offset = b"", 0
    for name, size in members:
        directory += Item(name, b"", 2**24, DEFLATED, packed=size).central(offset)
        offset += 30 + len(name) + 5
    return (
        file + directory + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, *[len(members)] * 2, len(directory), len(file), 0)
    )


def _sixty_four(count: int, size: int, offset: int) -> bytes:
    """An end record of zip64 that tells these numbers."""
    whole = zipped(sound())
    record = b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, size, offset)
    locator = b"PK\6\7" + struct.pack("<IQI", 0, len(whole) - 22, 1)
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 2**16 - 1, 2**16 - 1, 2**32 - 1, 2**32 - 1, 0)
    return whole[:-22] + record + locator + end


def _nested(depth: int) -> bytes:
    data = zipped(sound())
    for _ in range(depth):
        data = zipped([Item(b"inner.zip", data), Item(b"inner.png", data)])
    return data


ZIPS: dict[str, Callable[[], bytes]] = {
    **{f"a bomb by method {method}": _bomb(method, 2**26) for method in (DEFLATED, BZIP2, LZMA)},
    **{f"a bomb by method {method} that tells 100 bytes": _bomb(method, 100) for method in (DEFLATED, BZIP2, LZMA)},
    **{f"a bomb by method {method} that tells 50 MB": _bomb(method, 5 * 10**7) for method in (DEFLATED, BZIP2, LZMA)},
    **{f"a bomb by method {method} that tells 4 GB": _bomb(method, 2**32 - 2) for method in (DEFLATED, BZIP2, LZMA)},
    "twelve times 200 MB": lambda: zipped(
        [*sound(), *(Item(b"%d.png" % i, packed(DEFLATED, 2**28 - 1), 2**28 - 1, DEFLATED) for i in range(12))]
    ),
    "2,000 members that are one": lambda: _same(2_000),
    "200 quoted members": lambda: _quoted(200),
    "20 quoted members": lambda: _quoted(20),
    "three members that are one": lambda: _same(3),
    "500,000 members": lambda: zipped([*sound(), *(Item(b"%d.png" % i, b"", offset=0) for i in range(500_000))]),
    "half": lambda: zipped([*sound(), Item(b"c.png", os.urandom(20_000))])[:10_000],
    "without its directory": lambda: zipped(sound())[:-150],
    "noise before it": lambda: os.urandom(5_000) + zipped(sound()),
    "noise behind it": lambda: zipped(sound()) + os.urandom(5_000),
    "a comment of 64 KB": lambda: zipped(sound(), comment=b"PK\5\6" * 16_000),
    "a directory of 4 GB": lambda: zipped(sound(), size=2**32 - 2),
    "more members than there are": lambda: zipped(sound(), count=60_000),
    "no members": lambda: zipped([]),
    "members of 2 to the 63rd bytes": lambda: _sixty_four(2**63, 2**63, 0),
    "a zip64 directory of 2 to the 62nd": lambda: _sixty_four(2, 2**62, 2**62),
    "a zip64 directory at its end": lambda: _sixty_four(2, 0, 2**40),
    "an offset beyond its end": _around(Item(b"x.png", b"", 100, offset=2**31)),
    "a locked member": _around(Item(b"x.png", picture(3), flags=1)),
    "a method that nobody knows": _around(Item(b"x.png", picture(3), method=77)),
    "a wrong checksum": _around(Item(b"x.png", picture(3), checksum=1)),
    "a member larger than declared": _around(Item(b"x.png", picture(3), 10)),
    "a member smaller than declared": _around(Item(b"x.png", picture(3), 10**8)),
    "absolute names": _around(Item(b"/etc/x.png", picture(3)), Item(b"C:\\x.png", picture(4))),
    "names that lead up": _around(Item(b"../../x.png", picture(3)), Item(b"..\\..\\y.png", picture(4))),
    "names that are no UTF-8": _around(Item(b"caf\xe9.png", picture(3), flags=0x800)),
    "names in an old encoding": _around(Item(b"caf\xe9.png", picture(3))),
    "names with control characters": _around(Item(b"\x1b[2J\r\n\x7f.png", picture(3))),
    "a name of 60,000 bytes": _around(Item(b"d/" * 30_000 + b"x.png", picture(3))),
    "an empty name": _around(Item(b"", picture(3)), Item(b"a.png", picture(4))),
    "archives inside": lambda: _nested(5),
    "two kinds at once": lambda: zipped([Item(b"x.png", picture(3))]) + zipped(sound()),
}
