"""Real processes to kill, forked from a server that has imported the large packages, and a real disk to fill."""

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
    """Wait until the process has created the file."""
    end = time.monotonic() + 60
    while not path.exists():
        assert process.is_alive() and time.monotonic() < end, f"{path.name} was not made"
        time.sleep(0.001)


def kill(process: ForkServerProcess) -> None:
    """Send SIGKILL to the process, which must still be running."""
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk of one megabyte; only root can mount it."""
    disk = folder / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)
