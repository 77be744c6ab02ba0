"""Small files that somebody else may have made: no pipe to wait for, no device without an end, nothing huge."""

import errno
import os
import stat
from pathlib import Path

MOST = 2**26  # bytes of a document


def read_regular(path: Path, most: int = MOST) -> bytes:
    """The bytes of a plain file; raises OSError for anything else, and where there are more than `most`."""
    facts = path.stat()  # before opening: to open a pipe would wait for its writer
    if stat.S_ISDIR(facts.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(facts.st_mode):
        raise OSError(errno.EINVAL, "it is no plain file", str(path))
    if facts.st_size > most:
        raise OSError(errno.EFBIG, f"it has {facts.st_size:,} bytes, {most:,} at most are read", str(path))
    return path.read_bytes()


def read_text(path: Path) -> str:
    """The same as text; bytes that are no UTF-8 raise ValueError."""
    return read_regular(path).decode("utf-8")
