"""Lock a folder, so that only one process uses it, even on a disk that several machines share."""

import fcntl
import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from graftcli.errors import MachineError
from graftcli.store.atomic import writing

LOCK_FILE = ".lock"


def locked(folder: Path) -> BinaryIO:
    """Lock the folder until the returned file is closed or the process ends in any way."""
    with writing(folder / LOCK_FILE):
        folder.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW  # following a link would truncate another file
        file = os.fdopen(os.open(folder / LOCK_FILE, flags, 0o666), "a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.truncate(0)
            owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": datetime.now(UTC).isoformat()}
            file.write(json.dumps(owner).encode())
            file.flush()
        except BlockingIOError as err:
            with file:
                holder = _holder(file)
            fix = "Wait for it to end, stop it, or choose another folder with --out."
            raise MachineError(f"`{folder}` is in use by {holder}.", fix) from err
        except BaseException:
            file.close()
            raise
        return file


def _holder(file: BinaryIO) -> str:
    try:
        file.seek(0)
        holder = json.loads(file.read())
        since = datetime.fromisoformat(holder["since"]).astimezone()
        return f"process {holder['pid']} on {holder['host']}, since {since:%Y-%m-%d %H:%M}"
    except (ValueError, KeyError, TypeError):  # the holder has locked the file, but has not written its pid yet
        return "another process"
