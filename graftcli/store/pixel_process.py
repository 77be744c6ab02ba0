"""Processes that decode chunks. Each opens the source and reads its share.

This module is also the program of such a process: it reads a `Job`, then chunk numbers, one per line, and prints each
decoded chunk as a line of JSON.
"""

import base64
import hashlib
import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from graftcli.errors import MachineError
from graftcli.images.limits import Limits
from graftcli.images.sources import Files, open_source
from graftcli.store.pixel_chunks import Chunk, Layout, decode_chunk

_PACKAGE = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Job:
    """The source and the settings that a process needs to decode its share."""

    source: str
    state: str  # `state_of` the source; the files must be unchanged when the process opens it
    selection: tuple[int, ...] | None  # indices of the images to decode; None for all
    layout: Layout
    jobs: int
    seconds: float  # limit per image

    def encoded(self) -> bytes:
        """Serialise to one line."""
        return base64.b64encode(pickle.dumps(self)) + b"\n"


def state_of(files: Files) -> str:
    """A hash of the names, sizes and times of the files of a source."""
    digest = hashlib.sha256()
    for part in files.state():
        digest.update(f"{part}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def decode_in_processes(job: Job, numbers: Sequence[int], count: int) -> Iterator[Chunk]:
    """Decode chunks in `count` processes; yield each chunk when it is complete."""
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in numbers:
        waiting.put(number)
    done: queue.SimpleQueue[Chunk | str] = queue.SimpleQueue()
    processes = [_start(job) for _ in range(min(count, len(numbers)))]
    threads = [
        threading.Thread(target=_serve, args=(process, waiting, done, job.layout), daemon=True) for process in processes
    ]
    try:
        for thread in threads:
            thread.start()
        for _ in numbers:
            chunk = done.get()
            if isinstance(chunk, str):
                raise MachineError(f"a process that decodes images ended: {chunk}.", "Run the same command again.")
            yield chunk
    finally:
        for process, thread in zip(processes, threads, strict=True):
            process.kill()
            thread.join()
            _close(process)


def _start(job: Job) -> "subprocess.Popen[bytes]":
    path = os.pathsep.join([str(_PACKAGE), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,  # only this process handles Ctrl-C, and ends the others
    )
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # `_serve` reports why the process ended
        process.stdin.write(job.encoded())
        process.stdin.flush()
    return process


def _close(process: "subprocess.Popen[bytes]") -> None:
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with suppress(OSError):  # buffered requests
                pipe.close()


def _serve(
    process: "subprocess.Popen[bytes]",
    waiting: "queue.SimpleQueue[int]",
    done: "queue.SimpleQueue[Chunk | str]",
    layout: Layout,
) -> None:
    """Send chunk numbers to a process until none is left."""
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    while True:
        try:
            number = waiting.get_nowait()
        except queue.Empty:
            return
        try:
            process.stdin.write(f"{number}\n".encode())
            process.stdin.flush()
            done.put(Chunk.from_json(process.stdout.readline(), layout))
        except (OSError, ValueError):
            lines = process.stderr.read().decode(errors="replace").strip().splitlines()
            done.put(lines[-1] if lines else f"exit code {process.wait()}")
            return


def main(requests: IO[bytes], responses: IO[bytes]) -> None:
    """Decode the requested chunks until the input ends."""
    job: Job = pickle.loads(base64.b64decode(requests.readline()))
    with open_source(job.source) as opened:
        files = opened.entries if job.selection is None else opened.chosen(job.selection).entries
        if state_of(files) != job.state:
            raise MachineError(f"`{job.source}` changed while its images were decoded.", "")
        while line := requests.readline():
            chunk = decode_chunk(job.layout, files, int(line), jobs=job.jobs, limits=Limits(seconds=job.seconds))
            responses.write(chunk.to_json().encode() + b"\n")
            responses.flush()


if __name__ == "__main__":
    main(sys.stdin.buffer, os.fdopen(os.dup(1), "wb"))
