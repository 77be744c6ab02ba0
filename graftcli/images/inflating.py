"""Decompress streams with bounded dictionaries and reads, so that a decompression bomb needs little memory."""

import bz2
import io
import lzma
import re
import sys
import zlib
from collections.abc import Callable
from typing import BinaryIO, Protocol

_DICTIONARY = 256 * 2**20  # bytes that an .xz may request; `xz -9` needs 65 MiB
_INPUT, _OUTPUT = 2**15, 2**18
_MANY_STREAMS, _SMALL_STREAM = 10_000, 256  # parallel compressors write many streams, but none this small
_DIGITS = re.compile(rb"\d{200}")  # digits of a number in a header; older tarfile modules parse them in quadratic time


class Implausible(Exception):
    """The archive contains something that no real archive needs."""


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Gunzip:
    """zlib's decompressor with the interface of bz2's and lzma's."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        out = self._inner.decompress(self._inner.unconsumed_tail + data, max(0, max_length))
        self.needs_input = len(out) < max_length and not self._inner.unconsumed_tail
        return out


def _unxz() -> _Decompressor:
    return lzma.LZMADecompressor(memlimit=_DICTIONARY)


_MAGIC: list[tuple[bytes, Callable[[], _Decompressor]]] = [
    (b"\x1f\x8b", _Gunzip),
    (b"BZh", bz2.BZ2Decompressor),
    (b"\xfd7zXZ\0", _unxz),
    (b"]\0\0", _unxz),
]
if sys.version_info >= (3, 14):
    from compression import zstd

    _MAGIC.append((b"\x28\xb5\x2f\xfd", zstd.ZstdDecompressor))


def open_decompressed(file: BinaryIO) -> "io.BufferedReader | None":
    """A stream of the decompressed content of `file`; None if it is not compressed."""
    start = file.read(8)
    file.seek(0)
    make = next((make for magic, make in _MAGIC if start.startswith(magic)), None)
    return io.BufferedReader(_Decompressed(file, make), _OUTPUT) if make else None


class _Decompressed(io.RawIOBase):
    """The decompressed bytes; seeking backwards restarts decompression."""

    def __init__(self, file: BinaryIO, make: Callable[[], _Decompressor]) -> None:
        self._file, self._make = file, make
        self._rewind()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_CUR:
            offset += self._at
        elif whence == io.SEEK_END:
            raise io.UnsupportedOperation("the end of a compressed file is unknown")
        if offset < self._at:
            self._rewind()
        while self._at < offset and self._next(min(_OUTPUT, offset - self._at)):
            pass
        return self._at

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        data = self._next(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _rewind(self) -> None:
        self._file.seek(0)
        self._at, self._streams = 0, 1
        self._inner = self._make()

    def _next(self, size: int) -> bytes:
        """The next bytes, at most `size`; empty at the end."""
        while True:
            if self._inner.eof and not self._next_stream():
                return b""
            data = self._file.read(_INPUT) if self._inner.needs_input else b""
            if self._inner.needs_input and not data:
                raise EOFError("its compressed data is truncated")
            if out := self._inner.decompress(data, size):
                self._at += len(out)
                return out

    def _next_stream(self) -> bool:
        """Start the next compressed stream of the file; False if there is none."""
        rest = (self._inner.unused_data + self._file.read(_INPUT)).lstrip(b"\0")
        if not any(rest.startswith(magic) for magic, _ in _MAGIC):
            return False
        self._file.seek(-len(rest), io.SEEK_CUR)
        self._inner, self._streams = self._make(), self._streams + 1
        if self._streams > _MANY_STREAMS and self._file.tell() < self._streams * _SMALL_STREAM:
            raise Implausible(f"{self._streams:,} compressed streams of a few bytes")
        return True


class BoundedReader:
    """A file that reads at most `left` more bytes, so that a header that claims gigabytes is refused."""

    def __init__(self, file: "BinaryIO | io.BufferedReader", left: int | None = None) -> None:
        self._file, self.left = file, left
        self.seek, self.tell, self.close, self.seekable = file.seek, file.tell, file.close, file.seekable

    def read(self, size: int = -1) -> bytes:
        """Read at most `size` bytes, or all; raises Implausible for more than `left`."""
        if self.left is None:
            return self._file.read(size)
        if size < 0:  # to the end of the file
            position = self._file.tell()
            size = self._file.seek(0, io.SEEK_END) - position
            self._file.seek(position)
        if size > self.left:
            raise Implausible(f"a header of {size:,} bytes")
        data = self._file.read(size)
        self.left -= len(data)
        if len(data) > 512 and _DIGITS.search(data):
            raise Implausible("a header with a number of hundreds of digits")
        return data
