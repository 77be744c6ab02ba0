"""Refuse single files, and bound what is read of each."""

from typing import Protocol

LARGEST_FILE = 256 * 2**20
_LARGE, _HEAD = 2**20, 32
# JPEG, PNG, WEBP, BMP, GIF, and TIFF and BigTIFF in both byte orders
_MAGIC = (
    b"\xff\xd8\xff",
    b"\x89PNG",
    b"RIFF",
    b"BM",
    b"GIF8",
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"MM\0+",
    b"II\0*",
    b"MM*\0",
)


class Stream(Protocol):
    """A file or an archive member."""

    def read(self, size: int, /) -> bytes: ...
    def seek(self, offset: int, /) -> object: ...
    def tell(self) -> int: ...


class Refused(Exception):
    """Why a file is not read."""


def check_file_size(size: int) -> None:
    """Raise Refused if a file is larger than LARGEST_FILE."""
    if size > LARGEST_FILE:
        raise Refused(f"its size is {size / 2**20:,.0f} MiB; the limit is {LARGEST_FILE // 2**20} MiB")


def read_image(file: Stream, size: int) -> bytes:
    """Read `size` bytes, or only the first few of a large file without the magic bytes of an image."""
    if size > _LARGE:
        start = file.tell()
        head = file.read(_HEAD)
        if not head.startswith(_MAGIC):
            return head
        file.seek(start)
    return file.read(size)
