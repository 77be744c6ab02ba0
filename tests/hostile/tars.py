"""Hostile .tar files, and hostile streams around them."""

import bz2
import gzip
import io
import lzma
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from tests.image_files import noise, saved

Pieces = Iterator[bytes | int]  # bytes, or how many zeros
COMPRESSIONS = ("", "gz", "bz2", "xz")
MEMBER, LINK, SYMLINK, CHARACTER, FOLDER, FIFO = b"0", b"1", b"2", b"3", b"5", b"6"
PAX, LONG_NAME, OLD_SPARSE = b"x", b"L", b"S"
_BLOCK, _ZEROS = 512, 2**26
_PACK: dict[str, Callable[[bytes], bytes]] = {
    "gz": lambda data: gzip.compress(data, 6, mtime=0),
    "bz2": bz2.compress,
    "xz": lambda data: lzma.compress(data, preset=1),
}


def write(path: Path, compression: str, pieces: Pieces) -> None:
    """The pieces one after the other, each a compressed stream of its own; zeros are holes where nothing is packed."""
    with path.open("wb") as file:
        for piece in pieces:
            if compression:
                file.writelines(_packed(compression, piece))
            elif isinstance(piece, int):
                file.truncate(file.seek(piece, io.SEEK_CUR))
            else:
                file.write(piece)


def _packed(compression: str, piece: bytes | int) -> Iterator[bytes]:
    if isinstance(piece, bytes):
        yield _PACK[compression](piece)
        return
    for _ in range(piece // _ZEROS):
        yield _zeros(compression)
    yield _PACK[compression](bytes(piece % _ZEROS))


@cache
def _zeros(compression: str) -> bytes:
    return _PACK[compression](bytes(_ZEROS))


@cache
def picture(seed: int) -> bytes:
    return saved(noise(24, 24, seed))


def header(name: bytes, size: int = 0, kind: bytes = MEMBER, link: bytes = b"", rest: bytes = b"") -> bytes:
    """A block with these fields and the right checksum; sizes that octal digits cannot hold are in base 256."""
    octal = b"%011o\0" % size if 0 <= size < 8**11 else struct.pack(">iq", -1 if size < 0 else -(2**31), size)
    fields = [name.ljust(100, b"\0")[:100], b"0000644\0", b"0000000\0" * 2, octal, b"00000000000\0", b" " * 8, kind]
    block = b"".join([*fields, link.ljust(100, b"\0")[:100], b"ustar  \0"]).ljust(345, b"\0") + rest
    block = block.ljust(_BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def filled(data: bytes) -> bytes:
    return data + bytes(-len(data) % _BLOCK)


def member(name: bytes, data: bytes = b"", kind: bytes = MEMBER) -> bytes:
    return header(name, len(data), kind) + filled(data)


def pax(**values: str | bytes) -> bytes:
    lines = b""
    for key, value in values.items():
        text = (
            b" "
            + key.replace("_", ".").encode()
            + b"="
            + (value if isinstance(value, bytes) else value.encode())
            + b"\n"
        )
        length = len(text) + len(str(len(text) + 2))
        lines += str(length).encode() + text
    return member(b"pax", lines, PAX)


def sound() -> bytes:
    """Two images."""
    return member(b"a.png", picture(0)) + member(b"b.png", picture(1))


END = bytes(2 * _BLOCK)


def _around(*hostile: bytes | int) -> Callable[[], Pieces]:
    """Something hostile between two sound images and a third."""
    return lambda: iter((sound(), *hostile, member(b"z.png", picture(2)), END))


def _flat(count: int, size: int) -> Pieces:
    yield sound()
    for number in range(count):
        yield header(b"%d.png" % number, size)
        yield size
    yield END


def _many(count: int) -> Pieces:
    yield sound() + b"".join(header(b"%d.png" % number) for number in range(count)) + END


def _links(count: int, size: int, chain: bool) -> Pieces:
    """Hard links to the first image, or each to the one before it."""
    yield member(b"0.png", picture(0).ljust(size, b"\0")) + member(b"b.png", picture(1))
    yield b"".join(header(b"%d.png" % (i + 1), 0, LINK, b"%d.png" % (i if chain else 0)) for i in range(count)) + END


def _cut(share: float) -> Pieces:
    whole = sound() + b"".join(member(b"%d.png" % i, os.urandom(3000)) for i in range(20)) + END
    yield whole[: int(len(whole) * share)]


def _old_sparse(size: int, extended: int) -> bytes:
    """A member with holes: one map entry, the real size, and blocks of more entries."""
    entry = b"%011o\0" % 0
    rest = bytes(386 - 345) + entry * 2 + entry * 6 + (b"\1" if extended else b"\0") + b"%011o\0" % min(size, 8**11 - 1)
    more = (b"%011o\0" % 0 * 42).ljust(504, b"\0") + b"\1" + bytes(7)
    last = bytes(504) + bytes(8)
    return header(b"hole.png", 0, OLD_SPARSE, rest=rest) + more * extended + (last if extended else b"")


def _pax_sparse(size: int) -> bytes:
    values = {"GNU_sparse_major": "1", "GNU_sparse_minor": "0", "GNU_sparse_name": "hole.png"}
    return pax(**values, GNU_sparse_realsize=str(size)) + member(b"hole.png", filled(b"1\n%d\n0\n" % size))


def _inner() -> bytes:
    return gzip.compress(sound() + END)


TARS: dict[str, Callable[[], Pieces]] = {
    "a member of 4 GB": _around(header(b"large.png", 2**32), 2**32),
    "a member of 900 MB": _around(header(b"large.png", 9 * 10**8 // 512 * 512), 9 * 10**8 // 512 * 512),
    "twenty members of 200 MB": lambda: _flat(20, 200 * 2**20),
    "30,000 members": lambda: _many(30_000),
    "half": lambda: _cut(0.5),
    "without its last blocks": lambda: _cut(0.97),
    "only a beginning": lambda: iter((sound()[:300],)),
    "a size beyond the file": _around(header(b"lie.png", 2**40)),
    "a size of 2 to the 60th": _around(header(b"lie.png", 2**60)),
    "a negative size": _around(header(b"lie.png", -(2**20))),
    "a negative size that loops": _around(header(b"lie.png", -1024)),
    "absolute names": _around(member(b"/etc/passwd.png", picture(3)), member(b"//a.png", picture(4))),
    "names that lead up": _around(member(b"../../../up.png", picture(3)), member(b"x/../../y.png", picture(4))),
    "names that are no UTF-8": _around(member(b"caf\xe9/\xff\xfe.png", picture(3))),
    "names with control characters": _around(member(b"\x1b[2J\r\n.png", picture(3))),
    "a name of 1,000 folders": _around(
        member(b"long", b"d/" * 1000 + b"x.png\0", LONG_NAME), member(b"x.png", picture(3))
    ),
    "symbolic links in a circle": _around(
        header(b"x.png", 0, SYMLINK, b"y.png"), header(b"y.png", 0, SYMLINK, b"x.png")
    ),
    "a link out of the archive": _around(
        header(b"x.png", 0, SYMLINK, b"/etc/passwd"), header(b"y.png", 0, LINK, b"/dev/zero")
    ),
    "hard links in a circle": _around(
        header(b"x.png", 0, LINK, b"y.png"), header(b"y.png", 0, LINK, b"x.png"), header(b"s.png", 0, LINK, b"s.png")
    ),
    "a chain of 3,000 hard links": lambda: _links(3_000, 0, True),
    "5,000 hard links to 30 MB": lambda: _links(5_000, 30 * 2**20, False),
    "a pax header of 1 GB": _around(header(b"pax", 2**30, PAX), 2**30, member(b"c.png", picture(3))),
    "a name of 1 GB": _around(header(b"long", 2**30, LONG_NAME), 2**30, member(b"c.png", picture(3))),
    "2,000 pax headers in a row": _around(pax(comment="x") * 2000, member(b"c.png", picture(3))),
    "a pax header of digits": _around(member(b"pax", b"1" * 500_000, PAX), member(b"c.png", picture(3))),
    "a pax header with a negative size": _around(pax(size="-1024"), member(b"c.png", picture(3))),
    "a pax header of nonsense": _around(member(b"pax", b"0 =\n-3 a=b\n\xff\xff", PAX), member(b"c.png", picture(3))),
    "a hole of 1 TB": _around(_pax_sparse(2**40)),
    "an old hole of 8 GB": _around(_old_sparse(8**11 - 1, 0)),
    "20,000 blocks of holes": _around(_old_sparse(2**20, 20_000)),
    "a wrong checksum": _around(header(b"x.png")[:-1] + b"x"),
    "noise": lambda: iter((sound(), os.urandom(100_000))),
    "devices": _around(header(b"x.png", 0, CHARACTER), header(b"y.png", 0, FIFO), header(b"z.png/", 0, FOLDER)),
    "archives inside": _around(member(b"inner.tar.gz", _inner()), member(b"inner.png", _inner())),
}


def _large_dictionary() -> bytes:
    """An .xz that asks for 4 GB, in its block's header, which has a checksum of its own."""
    packed = lzma.compress(sound() + END)
    end = 12 + 4 * (packed[12] + 1)
    block = bytearray(packed[12 : end - 4])
    block[block.index(b"\x21\x01") + 2] = 40
    return packed[:12] + bytes(block) + struct.pack("<I", zlib.crc32(block)) + packed[end:]


STREAMS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "nothing": ("tar", lambda: b""),
    "only zeros": ("tar", lambda: bytes(10_240)),
    "gzip of zeros": ("tar.gz", lambda: _zeros("gz") * 64),
    "gzip of nothing": ("tar.gz", lambda: gzip.compress(b"")),
    "gzip's first bytes": ("tar.gz", lambda: b"\x1f\x8b\x08\0"),
    "gzip with noise behind it": ("tar.gz", lambda: gzip.compress(sound() + END) + os.urandom(1000)),
    "gzip with zeros behind it": ("tar.gz", lambda: gzip.compress(sound() + END) + bytes(10_000)),
    "300,000 empty gzip streams": ("tar.gz", lambda: gzip.compress(sound()) + gzip.compress(b"") * 300_000),
    "a wrong checksum of gzip": ("tar.gz", lambda: gzip.compress(sound() + END)[:-8] + bytes(8)),
    "a name of 16 MB in gzip": ("tar.gz", lambda: b"\x1f\x8b\x08\x08" + bytes(6) + b"x" * 2**24),
    "bzip2's first bytes": ("tar.bz2", lambda: b"BZh9"),
    "xz with a dictionary of 4 GB": ("tar.xz", lambda: _large_dictionary()),
    "xz's first bytes": ("tar.xz", lambda: lzma.compress(sound() + END)[:24]),
    "lzma without a container": ("tar.lzma", lambda: lzma.compress(sound() + END, lzma.FORMAT_ALONE)),
    "zip with a tar's name": ("tar", lambda: b"PK\5\6" + bytes(18)),
}
