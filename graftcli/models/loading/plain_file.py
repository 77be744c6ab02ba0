"""Read small untrusted files: regular files only, of bounded size."""

import difflib
import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

from graftcli.errors import CheckpointError

_MAX_DOCUMENT = 2**26  # largest document in bytes


def read_regular(path: Path, limit: int = _MAX_DOCUMENT) -> bytes:
    """Read a regular file; raises OSError for anything else, or above `limit` bytes."""
    status = path.stat()  # before opening, because opening a pipe blocks
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    if status.st_size > limit:
        raise OSError(errno.EFBIG, f"it has {status.st_size:,} bytes; the limit is {limit:,}", str(path))
    return path.read_bytes()


def missing_path(path: Path) -> CheckpointError:
    """The error for a path that does not exist, with the nearest existing name in the same folder."""
    message = f"There is no file or folder `{path}`."
    with suppress(OSError):
        if near := difflib.get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], n=1):
            return CheckpointError(message, f"Did you mean `{path.parent / near[0]}`?")
    return CheckpointError(message, "Check the path, and the current working directory.")


def read_text(path: Path) -> str:
    """Read a regular file as text; raises ValueError if it is not UTF-8."""
    return read_regular(path).decode("utf-8")
