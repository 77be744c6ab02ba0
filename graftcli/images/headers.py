"""Read image headers: the memory and time that decoding needs, and the orientation."""

import io
import re

from PIL import Image, ImageFile

from graftcli.images.file_formats import FORMATS
from graftcli.images.limits import Allowance
from graftcli.images.refusal import Refused

_MAX_SCANS = 500  # of a JPEG; a progressive one has about ten, and each is a pass over all pixels
_MAX_SEGMENTS = 65_536
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # excludes stuffing and restart markers
_START_OF_SCAN, _END = 0xDA, 0xD9
_STANDALONE = (0x01, 0xD8)  # markers without a length
_ROTATED = range(2, 9)  # EXIF orientations of images that are not stored upright
_ORIENTATION, _BITS, _COMPRESSION, _ROWS, _TILE_WIDTH, _TILE_LENGTH = 0x0112, 258, 259, 278, 322, 323  # of TIFF


class TimedStream(io.BytesIO):
    """A stream of a file's bytes; reading raises Refused once the image has exceeded its time limit."""

    def __init__(self, data: bytes, allowance: Allowance) -> None:
        super().__init__(data)
        self._allowance = allowance

    def read(self, size: int | None = -1, /) -> bytes:
        """Read at most `size` bytes."""
        self._allowance.check()
        return super().read(size)


def count_scans(data: bytes) -> int:
    """The number of scans of a JPEG; 0 for other files. Raises Refused for more than any encoder writes."""
    if not data.startswith(b"\xff\xd8"):
        return 0
    if (count := data.count(b"\xff\xda")) < 2:
        return count  # no thumbnail can hold one of them
    scans, segments, offset = 0, 0, 2
    while (match := _MARKER.search(data, offset)) and (marker := data[match.start() + 1]) != _END:
        offset, segments = match.end(), segments + 1
        if marker not in _STANDALONE:
            offset += int.from_bytes(data[offset : offset + 2], "big")
        scans += marker == _START_OF_SCAN
        if scans > _MAX_SCANS:
            raise Refused(f"it has more than {_MAX_SCANS} scans, which only a decompression bomb has")
        if segments > _MAX_SEGMENTS:
            raise Refused(f"it has more than {_MAX_SEGMENTS:,} segments, which only a decompression bomb has")
    return scans


def pixel_bytes(mode: str) -> int:
    """The bytes per pixel that Pillow holds in this mode."""
    if mode in ("1", "L", "P"):
        return 1
    return 2 if mode.startswith("I;16") else 4


def working_bytes(image: ImageFile.ImageFile, size: tuple[int, int], data: bytes, scans: int) -> int:
    """The bytes needed to decode an opened image besides its pixels and file; `scans` are those of a JPEG."""
    pixels = image.width * image.height
    if image.format in ("JPEG", "MPO"):
        return _coefficients(image, size) if scans > 1 else 0
    if image.format == "TIFF":
        return len(data) + _strip(image)
    file_format = FORMATS.get(image.format or "")
    return pixels * file_format.working if file_format else 0


def may_be_rotated(image: ImageFile.ImageFile, data: bytes) -> bool:
    """Whether the image may have to be turned upright, without decoding it."""
    if image.format == "PNG":  # its EXIF data may follow the pixels, and getexif() would decode them
        return b"eXIf" in data or b"exif" in data or b"tiff:Orientation" in data
    return image.getexif().get(_ORIENTATION, 1) in _ROTATED


def is_sideways(image: ImageFile.ImageFile) -> bool:
    """Whether turning the image upright swaps width and height. Do not call it on a PNG that is not decoded."""
    return image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)


def _coefficients(image: ImageFile.ImageFile, size: tuple[int, int]) -> int:
    """libjpeg keeps two bytes per sample of all components until the last scan."""
    layers = [(layer[1], layer[2]) for layer in getattr(image, "layer", ())] or [(1, 1)]
    wide, tall = max(h for h, _ in layers), max(v for _, v in layers)
    width, height = size[0] + 8 * wide, size[1] + 8 * tall  # whole blocks
    return sum(2 * width * height * h * v // (wide * tall) for h, v in layers)


def _strip(image: ImageFile.ImageFile) -> int:
    """libtiff holds a strip or a tile twice; uncompressed files are read without it."""
    tags = image.tag_v2  # type: ignore[attr-defined]
    if tags.get(_COMPRESSION, 1) == 1:
        return 0
    bits = tags.get(_BITS, 8)
    depth = sum(bits) if isinstance(bits, tuple) else int(bits) * len(image.getbands())
    if _TILE_WIDTH in tags:
        pixels = int(tags[_TILE_WIDTH]) * int(tags.get(_TILE_LENGTH, 1))
    else:
        pixels = image.width * min(image.height, int(tags.get(_ROWS, image.height)))
    return 2 * (pixels * depth // 8)


def upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; returns the same object if the image is upright already."""
    method = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(image.getexif().get(_ORIENTATION, 1))
    return image if method is None else image.transpose(method)
