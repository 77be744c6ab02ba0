"""The refusal of one file while all others are read, and the bounds on what is read of it."""

from typing import Protocol

LARGEST_FILE = 256 * 2**20
_LARGE, _HEAD = 2**20, 32
# JPEG, PNG, WEBP, BMP, GIF, and TIFF in both orders of bytes, small and big
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
    """What is read: a file, or a member of an archive."""

    def read(self, size: int, /) -> bytes: ...
    def seek(self, offset: int, /) -> object: ...
    def tell(self) -> int: ...


class Refused(Exception):
    """Why one file is not read."""


def bounded(size: int) -> None:
    """Raise Refused for a file that is larger than any image."""
    if size > LARGEST_FILE:
        raise Refused(f"its size is {size / 2**20:,.0f} MiB; {LARGEST_FILE // 2**20} MiB is the most that is read")


def image_bytes(file: Stream, size: int) -> bytes:
    """`size` bytes of `file` from its position; of a large one that does not begin as an image does, the first few."""
    if size > _LARGE:
        start = file.tell()
        head = file.read(_HEAD)
        if not head.startswith(_MAGIC):
            return head
        file.seek(start)
    return file.read(size)
