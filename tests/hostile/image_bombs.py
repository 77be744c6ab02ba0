"""Image files of a few kilobytes that take gigabytes or minutes where they are decoded without care."""

import struct
import zlib
from collections.abc import Callable

from PIL import Image

from tests.image_files import noise, saved

PNG, JPEG, GIF, WEBP, BMP, TIFF = "png", "jpg", "gif", "webp", "bmp", "tif"


def png(width: int, height: int, *chunks: tuple[bytes, bytes], depth: int = 8, colour: int = 0) -> bytes:
    """A PNG of these chunks, whatever they are."""
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    parts = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in (header, *chunks, (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def black(width: int, height: int, depth: int = 8, colour: int = 0) -> tuple[bytes, bytes]:
    """The pixels of a black PNG of a few kilobytes, whatever its size."""
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    rows, packer = height, zlib.compressobj(1)
    row, packed = bytes(1 + (width * depth * samples + 7) // 8), []
    while rows > 0:
        count = min(rows, max(1, 2**22 // len(row)))
        packed.append(packer.compress(row * count))
        rows -= count
    return b"IDAT", b"".join(packed) + packer.flush()


def ifd(entries: list[tuple[int, int, int, int]], data: bytes = b"") -> bytes:
    """A TIFF of one directory of (tag, type, count, value or offset)."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries) % 2**16) + body + bytes(4) + data


def _tiff(width: int, height: int, *more: tuple[int, int, int, int], packed: int = 8) -> bytes:
    pixels = zlib.compress(bytes(width * height), 1)
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, packed), (262, 3, 1, 1)]
    entries += [(273, 4, 1, 300), (277, 3, 1, 1), (279, 4, 1, len(pixels)), *more]
    start = ifd(sorted(entries))
    return start + bytes(300 - len(start)) + pixels


def _webp(width: int, height: int) -> bytes:
    """A WEBP of one colour: a few bytes, whatever its size."""
    data = saved(Image.new("RGB", (1, 1)), "WEBP", lossless=True)
    return data[:21] + struct.pack("<I", (width - 1) | (height - 1) << 14) + data[25:]


def _scans(count: int) -> bytes:
    data = saved(Image.new("RGB", (3000, 3000), "navy"), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * count + data[-2:]


def _segments() -> bytes:
    data, exif = saved(noise(40, 56), "JPEG"), b"Exif\0\0" + ifd([(271, 2, 60_000, 0)] * 3)
    segment = b"\xff\xe1" + struct.pack(">H", 2 + len(exif) + 60_000) + exif + bytes(60_000)
    return data[:2] + segment * 200 + data[2:]


def _rle(width: int, height: int, codes: bytes) -> bytes:
    """A BMP of run lengths."""
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(codes), 0, 0, 256, 0)
    start = 14 + 40 + 1024
    return b"BM" + struct.pack("<IHHI", start + len(codes), 0, 0, start) + header + bytes(1024) + codes


def _exif_of(tags: int) -> bytes:
    """Tags that all point at the same megabyte."""
    return ifd([(40_000 + i, 1, 2**20, 8) for i in range(tags)], bytes(2**20))


def _animated(frames: int) -> bytes:
    return saved(noise(24, 24), "GIF", save_all=True, append_images=[noise(24, 24, i) for i in range(frames)])


BOMBS: dict[str, Callable[[], tuple[str, bytes]]] = {
    "PNG of 13000x13000 in 16 bits": lambda: (PNG, png(13_000, 13_000, black(13_000, 13_000, 16), depth=16)),
    "PNG of 11000x11000 with alpha": lambda: (PNG, png(11_000, 11_000, black(11_000, 11_000, 8, 6), colour=6)),
    "PNG of 13000x13000 bits": lambda: (PNG, png(13_000, 13_000, black(13_000, 13_000, 1), depth=1)),
    "PNG whose size is a lie": lambda: (PNG, png(13_000, 13_000, (b"IDAT", zlib.compress(bytes(100))))),
    "PNG of 2 billion columns": lambda: (PNG, png(2**31 - 1, 1, (b"IDAT", b""))),
    "PNG of 170 million columns": lambda: (PNG, png(170_000_000, 1, black(170_000_000, 1))),
    "PNG of 170 million rows": lambda: (PNG, png(1, 170_000_000, (b"IDAT", zlib.compress(bytes(2**20))))),
    "PNG with compressed text": lambda: (PNG, png(9, 9, (b"zTXt", b"a\0\0" + zlib.compress(bytes(2**28), 9)))),
    "PNG with a compressed profile": lambda: (PNG, png(9, 9, (b"iCCP", b"a\0\0" + zlib.compress(bytes(2**28), 9)))),
    "PNG of 200,000 chunks": lambda: (PNG, png(9, 9, *[(b"tEXt", b"a\0b")] * 200_000, black(9, 9))),
    "PNG with EXIF data of 25,000 tags": lambda: (PNG, png(9, 9, (b"eXIf", _exif_of(25_000)), black(9, 9))),
    "JPEG of 480 scans": lambda: (JPEG, _scans(470)),
    "JPEG of 5,000 scans": lambda: (JPEG, _scans(5_000)),
    "JPEG of 12000x12000, progressive": lambda: (
        JPEG,
        saved(Image.new("RGB", (12_000,) * 2), "JPEG", progressive=True),
    ),
    "JPEG with 12 MB of EXIF data": lambda: (JPEG, _segments()),
    "JPEG of 70,000 empty segments": lambda: (
        JPEG,
        b"\xff\xd8" + b"\xff\xfe\0\2" * 70_000 + saved(noise(9, 9), "JPEG")[2:],
    ),
    "GIF of 13000x13000": lambda: (GIF, saved(Image.new("P", (13_000, 13_000)), "GIF")),
    "GIF of 300 frames": lambda: (GIF, _animated(300)),
    "GIF with a long comment": lambda: (
        GIF,
        b"GIF89a\t\0\t\0\0\0\0" + b"!\xfe" + (b"\xff" + b"x" * 255) * 40_000 + b"\0;",
    ),
    "WEBP of 16383x10000": lambda: (WEBP, _webp(16_383, 10_000)),
    "WEBP of 7000x7000": lambda: (WEBP, _webp(7_000, 7_000)),
    "WEBP with EXIF data of 25,000 tags": lambda: (WEBP, saved(noise(9, 9), "WEBP", exif=_exif_of(25_000))),
    "BMP of run lengths that jump": lambda: (BMP, _rle(100_000, 1_500, b"\0\2\0\xff" * 1000)),
    "BMP of runs of nothing": lambda: (BMP, _rle(1, 100_000_000, b"\xff\0" * 2**20)),
    "BMP of 13000x13000 without pixels": lambda: (BMP, _rle(13_000, 13_000, b"\0\1")),
    "TIFF of one strip of 13000x13000": lambda: (TIFF, _tiff(13_000, 13_000)),
    "TIFF of a tile of 60000x60000": lambda: (TIFF, _tiff(64, 64, (322, 4, 1, 60_000), (323, 4, 1, 60_000))),
    "TIFF with 25,000 large tags": lambda: (TIFF, _exif_of(25_000)),
    "TIFF with 4 billion strips": lambda: (TIFF, _tiff(64, 64, (278, 4, 1, 1), (330, 4, 2**32 - 1, 8))),
    "TIFF whose directory is its own sequel": lambda: (TIFF, _tiff(64, 64)[:-4] + b"\x08\0\0\0"),
}
