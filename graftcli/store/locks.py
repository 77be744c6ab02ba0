"""One process at a time works in a folder."""

import fcntl
import json
import os
import socket
from pathlib import Path
from typing import BinaryIO

from graftcli.errors import MachineError
from graftcli.store.atomic import writing

LOCK_FILE = ".lock"


def locked(folder: Path) -> BinaryIO:
    """The folder's lock, held by this process until the file is closed or the process ends, however it ends."""
    with writing(folder / LOCK_FILE):
        folder.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW  # a link would have another file truncated
        file = os.fdopen(os.open(folder / LOCK_FILE, flags, 0o666), "a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.truncate(0)
            file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
            file.flush()
        except BlockingIOError as err:
            with file:
                holder = _holder(file)
            mend = "Let it end, or stop it; or choose another folder with --out."
            raise MachineError(f"{holder} works in `{folder}`.", mend) from err
        except BaseException:
            file.close()
            raise
        return file


def _holder(file: BinaryIO) -> str:
    try:
        file.seek(0)
        holder = json.loads(file.read())
        return f"Process {holder['pid']} on {holder['host']}"
    except (ValueError, KeyError, TypeError):  # it took the lock just now
        return "Another process"
