"""Real processes to kill, forked from a server that has imported the heavy packages, and real disks that are full."""

import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import pytest


def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["graftcli.store", "pytest"])
    return context


def started(work: Callable[..., None], *words: object) -> ForkServerProcess:
    process = _context().Process(target=work, args=words, daemon=True)
    process.start()
    return process


def wait_for(path: Path, process: ForkServerProcess) -> None:
    """Until the process has made the file."""
    end = time.monotonic() + 60
    while not path.exists():
        assert process.is_alive() and time.monotonic() < end, f"{path.name} was not made"
        time.sleep(0.001)


def kill(process: ForkServerProcess) -> None:
    """kill -9; the process must have been at work until then."""
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk of one megabyte; root alone may mount it."""
    disk = folder / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)
