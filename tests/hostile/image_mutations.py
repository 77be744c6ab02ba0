"""Hostile image files, made from a seed: damaged, spliced, with absurd headers, and bombs."""

import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from tests.hostile.image_bombs import BMP, BOMBS, GIF, JPEG, PNG, TIFF, WEBP
from tests.image_files import noise, ramp16, saved

ABSURD = (0, 1, 2**15 - 1, 2**16 - 1, 13_000, 40_000, 2**31 - 1, 2**32 - 1)


@dataclass(frozen=True)
class Hostile:
    kind: str  # what was done to it
    name: str
    data: bytes


def hostile(seed: int) -> Hostile:
    """The hostile image of this number; one in forty is a bomb, which takes seconds."""
    draw = random.Random(seed)
    if seed % 40 == 0:
        kind = list(BOMBS)[seed // 40 % len(BOMBS)]
        suffix, data = BOMBS[kind]()
        return Hostile(kind, f"{seed}.{suffix}", data)
    kind = draw.choice(list(MUTATIONS))
    suffix, base = draw.choice(bases())
    suffix, data = MUTATIONS[kind](suffix, base, draw)
    return Hostile(kind, f"{seed}.{suffix}", data)


@cache
def bases() -> tuple[tuple[str, bytes], ...]:
    """Sound images of all formats and odd modes."""
    image, exif = noise(40, 56), Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    grey, clear, frames = image.convert("L"), image.convert("RGBA"), [noise(24, 24, seed) for seed in (1, 2)]
    whole = Image.fromarray(np.arange(600, dtype=np.int32).reshape(20, 30))
    real = Image.fromarray(np.linspace(-1, 2, 600, dtype=np.float32).reshape(20, 30))
    many: dict[str, Any] = {"save_all": True, "append_images": frames}
    return (
        *((PNG, saved(one)) for one in (image, grey, clear, grey.convert("LA"), grey.convert("1"), ramp16())),
        *((PNG, saved(image.quantize(9), transparency=3)), (PNG, saved(image, exif=exif))),
        *((JPEG, saved(image, "JPEG", exif=exif)), (JPEG, saved(image, "JPEG", progressive=True, subsampling=0))),
        *((JPEG, saved(grey, "JPEG", restart_marker_blocks=2)), (JPEG, saved(image.convert("CMYK"), "JPEG"))),
        *((GIF, saved(image, "GIF")), (GIF, saved(frames[0], "GIF", **many, comment=b"x" * 300))),
        *((WEBP, saved(image, "WEBP", exif=exif)), (WEBP, saved(clear, "WEBP", lossless=True))),
        *((WEBP, saved(frames[0], "WEBP", **many)), (BMP, saved(image, "BMP")), (BMP, saved(image.quantize(9), "BMP"))),
        *((TIFF, saved(one, "TIFF")) for one in (image, ramp16(), whole, real, clear, image.convert("LAB"))),
        *((TIFF, saved(image, "TIFF", compression=kind)) for kind in ("tiff_lzw", "jpeg", "tiff_adobe_deflate")),
        (TIFF, saved(grey.convert("1"), "TIFF", compression="group4")),
    )


def _flipped(suffix: str, data: bytes, draw: random.Random) -> tuple[str, bytes]:
    out = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8, 64))):
        out[draw.randrange(len(out))] ^= 1 << draw.randrange(8)
    return suffix, bytes(out)


def _flipped_early(suffix: str, data: bytes, draw: random.Random) -> tuple[str, bytes]:
    return suffix, _flipped(suffix, data[:64], draw)[1] + data[64:]


def _cut(suffix: str, data: bytes, draw: random.Random) -> tuple[str, bytes]:
    return suffix, data[: draw.randrange(len(data))]


def _grown(suffix: str, data: bytes, draw: random.Random) -> tuple[str, bytes]:
    return suffix, data + draw.randbytes(draw.choice((1, 100, 100_000)))


def _spliced(suffix: str, data: bytes, draw: random.Random) -> tuple[str, bytes]:
    """The beginning of one image and the end of another."""
    other = draw.choice(bases())[1]
    return suffix, data[: draw.randrange(len(data))] + other[draw.randrange(len(other)) :]


def _filled(suffix: str, data: bytes, draw: random.Random) -> tuple[str, bytes]:
    """A stretch of zeros, ones or noise."""
    start, length = draw.randrange(len(data)), draw.choice((4, 40, 400))
    fill = draw.choice((bytes(length), b"\xff" * length, draw.randbytes(length)))
    return suffix, data[:start] + fill + data[start + length :]


def _repeated(suffix: str, data: bytes, draw: random.Random) -> tuple[str, bytes]:
    """A stretch a thousand times."""
    start, length = draw.randrange(len(data)), draw.choice((1, 8, 60, 500))
    return suffix, data[:start] + data[start : start + length] * draw.choice((2, 1000)) + data[start:]


def _numbers(suffix: str, data: bytes, draw: random.Random) -> tuple[str, bytes]:
    """An absurd number of 16 or 32 bits in the first bytes."""
    form = draw.choice(("<H", ">H", "<I", ">I"))
    value = draw.choice(ABSURD) % (2**16 if form[1] == "H" else 2**32)
    at = draw.randrange(min(len(data), 120))
    return suffix, data[:at] + struct.pack(form, value) + data[at + struct.calcsize(form) :]


def _sized(suffix: str, data: bytes, draw: random.Random) -> tuple[str, bytes]:
    """Another size in the header, where each format has it."""
    width, height = draw.choice(ABSURD), draw.choice(ABSURD)
    if suffix == PNG:
        header = struct.pack(">II", width, height) + data[24:29]
        return suffix, data[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + data[33:]
    if suffix == JPEG:
        at = next(i for i in range(len(data)) if data[i] == 0xFF and data[i + 1] in (0xC0, 0xC2)) + 5
        return suffix, data[:at] + struct.pack(">HH", height % 2**16, width % 2**16) + data[at + 4 :]
    if suffix == BMP:
        return suffix, data[:18] + struct.pack("<II", width, height) + data[26:]
    at = {GIF: 6, WEBP: 24, TIFF: 20}[suffix]
    return suffix, data[:at] + struct.pack("<HH", width % 2**16, height % 2**16) + data[at + 4 :]


def _chunks(data: bytes) -> list[bytes]:
    found, at = [], 8
    while at + 8 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        found.append(data[at:end])
        at = end
    return found


def _shuffled(suffix: str, data: bytes, draw: random.Random) -> tuple[str, bytes]:
    """Chunks of a PNG twice, missing or in another order; of other formats, halves exchanged."""
    if suffix != PNG:
        middle = draw.randrange(len(data))
        return suffix, data[middle:] + data[:middle]
    chunks = _chunks(data)
    chunks = draw.choice((chunks * 2, draw.sample(chunks, len(chunks)), chunks[1:], chunks[:-1], chunks[:1] * 50))
    return suffix, data[:8] + b"".join(chunks)


def _renamed(suffix: str, data: bytes, draw: random.Random) -> tuple[str, bytes]:
    return draw.choice((PNG, JPEG, GIF, WEBP, BMP, TIFF, "tiff", "jfif")), data


def _nothing(suffix: str, data: bytes, draw: random.Random) -> tuple[str, bytes]:
    magic = (b"", data[: draw.randrange(1, 30)], b"GIF89a", b"BM", b"II*\0", b"MM\0*", b"\xff\xd8\xff", b"RIFF")
    return suffix, draw.choice(magic) + draw.choice((b"", draw.randbytes(1000)))


MUTATIONS: dict[str, Callable[[str, bytes, random.Random], tuple[str, bytes]]] = {
    "flipped bits": _flipped,
    "flipped header": _flipped_early,
    "cut": _cut,
    "appended": _grown,
    "spliced": _spliced,
    "overwritten": _filled,
    "repeated": _repeated,
    "absurd numbers": _numbers,
    "absurd size": _sized,
    "shuffled": _shuffled,
    "wrong suffix": _renamed,
    "magic and noise": _nothing,
}
