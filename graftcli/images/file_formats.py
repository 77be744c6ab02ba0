"""The registry of image file formats: which files are read, their first bytes, and the memory that decoding needs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FileFormat:
    """A file format of images.

    Parameters:
        suffixes: The suffixes of its files, in lower case.
        magic: The first bytes of its files.
        working: Bytes per pixel that its decoder needs in addition to the image; for JPEG and TIFF, `headers`
            computes them.
    """

    suffixes: tuple[str, ...]
    magic: tuple[bytes, ...]
    working: int = 0


# By Pillow's name. A fixed list: newer versions of Pillow have more, and a run must read the same files everywhere.
FORMATS = {
    "JPEG": FileFormat((".jpg", ".jpeg", ".jfif"), (b"\xff\xd8\xff",)),
    "PNG": FileFormat((".png",), (b"\x89PNG",)),
    "WEBP": FileFormat((".webp",), (b"RIFF",), working=14),  # libwebp has two canvases, a frame and buffers
    "BMP": FileFormat((".bmp",), (b"BM",), working=3),
    "TIFF": FileFormat(  # TIFF and BigTIFF in both byte orders
        (".tif", ".tiff"), (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"II\0*", b"MM*\0")
    ),
    "GIF": FileFormat((".gif",), (b"GIF8",), working=3),
}
SUFFIXES = tuple(suffix for file_format in FORMATS.values() for suffix in file_format.suffixes)
MAGIC = tuple(magic for file_format in FORMATS.values() for magic in file_format.magic)
# Formats that are not supported: their files are reported rather than ignored.
UNSUPPORTED = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".psd", ".svg", ".dng", ".cr2", ".nef", ".arw")


def suffix_of(data: bytes) -> str:
    """The suffix for the first bytes of a file; "" if it is not an image."""
    formats = (one for one in FORMATS.values() if data.startswith(one.magic))
    return next((one.suffixes[0] for one in formats), "")
