"""Refuse single files, and limit how much of each is read."""

from typing import Protocol

from graftcli.images.file_formats import MAGIC

LARGEST_FILE = 256 * 2**20
_LARGE, _HEAD = 2**20, 32


class Stream(Protocol):
    """A file or an archive member."""

    def read(self, size: int, /) -> bytes:
        """Read at most `size` bytes."""

    def seek(self, offset: int, /) -> object:
        """Move to an offset from the start."""

    def tell(self) -> int:
        """The current offset."""


class Refused(Exception):
    """A file is not read; the message is the reason."""


def check_file_size(size: int) -> None:
    """Raise Refused if a file is larger than LARGEST_FILE."""
    if size > LARGEST_FILE:
        raise Refused(f"its size is {size / 2**20:,.0f} MiB; the limit is {LARGEST_FILE // 2**20} MiB")


def read_image(file: Stream, size: int) -> bytes:
    """Read `size` bytes, or only the first few of a large file without the magic bytes of an image."""
    if size > _LARGE:
        start = file.tell()
        head = file.read(_HEAD)
        if not head.startswith(MAGIC):
            return head
        file.seek(start)
    return file.read(size)
