"""The two outputs of the process: stdout is the result, stderr is everything else.

Nothing that happens to stderr ends a command: after a terminal has gone away, what is written to it is dropped. A
reader of stdout that has gone away is one `BrokenPipeError`, however the system reports it. With --json, stderr is
JSON alone: what a library prints, in Python or in C, becomes one line of JSON for each of its lines.
"""

import errno
import io
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, NoReturn, TextIO

_GONE = (errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO, errno.ESTALE)
_PIECE = 2**16  # bytes of a library's output that are forwarded at once
_LONGEST = 2**13  # bytes without an end of a line that are waited for
_PATIENCE = 2.0  # seconds that the end of a command waits until the last of it is forwarded


class ResultStream(io.TextIOWrapper):
    """stdout: a terminal that has gone away is a pipe without a reader, and every name can be printed."""

    def __init__(self, number: int) -> None:
        super().__init__(
            open(number, "wb", closefd=False),  # noqa: SIM115
            encoding=_encoding(sys.stdout),
            errors="backslashreplace",
            line_buffering=os.isatty(number),
        )

    def write(self, text: str) -> int:
        """Buffer the text."""
        with _reader():
            return super().write(text)

    def flush(self) -> None:
        """Hand what is buffered to the system."""
        with _reader():
            super().flush()


class Messages(io.TextIOWrapper):
    """stderr: what cannot be written is dropped; when nobody can read it any more, so is everything after it."""

    def __init__(self, number: int) -> None:
        super().__init__(
            open(number, "wb", closefd=False),  # noqa: SIM115
            encoding=_encoding(sys.stderr),
            errors="backslashreplace",
            line_buffering=True,
        )

    def write(self, text: str) -> int:
        """Write the text as far as that is possible."""
        with _droppable(self):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """Hand what is buffered to the system as far as that is possible."""
        with _droppable(self):
            super().flush()


def _encoding(file: TextIO | None) -> str:
    return file.encoding if file is not None else "utf-8"


@contextmanager
def _reader() -> Iterator[None]:
    try:
        yield
    except OSError as fault:
        if fault.errno in _GONE:
            raise BrokenPipeError(errno.EPIPE, "stdout has no reader") from fault
        raise


@contextmanager
def _droppable(file: IO[str]) -> Iterator[None]:
    try:
        yield
    except OSError as fault:
        if fault.errno in _GONE:
            forget(file)


def forget_result() -> None:
    """Drop the rest of a result that nobody reads."""
    forget(_apart.result if _apart else sys.stdout)


def forget(file: IO[str]) -> None:
    """Point the file at nothing, so that neither Python nor a library written in C finds a broken pipe again."""
    with suppress(OSError, ValueError):  # a test's file has no number
        nothing, number = os.open(os.devnull, os.O_WRONLY), file.fileno()
        os.dup2(nothing, number, inheritable=number <= 2)
        os.close(nothing)


@dataclass(frozen=True)
class _Apart:
    """The real outputs while --json keeps everything else off them, and what keeps two writers apart."""

    result: ResultStream
    messages: Messages
    lock: int | None


_apart: _Apart | None = None


def write_result(text: str) -> None:
    """Write a document on stdout."""
    file = _apart.result if _apart else sys.stdout
    file.write(text)
    file.flush()


def write_message(text: str) -> None:
    """Write whole lines on stderr, which nothing else gets into."""
    if _apart is None:
        sys.stderr.write(text)
        sys.stderr.flush()
        return
    with _alone(_apart.lock):
        _apart.messages.write(text)
        _apart.messages.flush()


@contextmanager
def standard() -> Iterator[None]:
    """Put these outputs into the places of sys.stdout and sys.stderr until the process ends."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed by whoever started the process: the next file to be opened would take its place
            os.open(os.devnull, os.O_RDWR)
    sys.stdout, sys.stderr = ResultStream(1), Messages(2)
    try:
        yield
    finally:
        try:
            sys.stdout.flush()
        except OSError:
            forget(sys.stdout)  # reported already: Python would say it again, and exit with 120


@contextmanager
def json_only(wanted: bool) -> Iterator[None]:
    """While it lasts, only `write_result` reaches stdout, and only JSON reaches stderr, where the system can fork."""
    global _apart
    if not wanted or not hasattr(os, "fork"):
        yield
        return
    real = os.dup(1), os.dup(2)
    lock = _lock()
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        for number in (1, 2, sink, real[0]):
            os.close(number)
        _forward(source, real[1], lock)
    os.dup2(sink, 1), os.dup2(sink, 2)
    for number in (source, sink):
        os.close(number)
    _apart = _Apart(ResultStream(real[0]), Messages(real[1]), lock)
    try:
        yield
    except SystemExit:
        _rejoin(_apart, child)
        for file in (sys.stdout, sys.stderr):  # what libraries print while Python shuts down is no JSON either
            forget(file)
        raise
    except BaseException:
        _rejoin(_apart, child)
        raise


def _rejoin(apart: _Apart, child: int) -> None:
    """Give the outputs their places back, after everything that was printed has been forwarded."""
    global _apart
    for file in (sys.stdout, sys.stderr, apart.messages):
        with suppress(OSError, ValueError):
            file.flush()
    with suppress(OSError):
        apart.result.flush()
    os.dup2(apart.result.fileno(), 1), os.dup2(apart.messages.fileno(), 2)
    end = time.monotonic() + _PATIENCE
    with suppress(ChildProcessError):
        while os.waitpid(child, os.WNOHANG)[0] == 0 and time.monotonic() < end:
            time.sleep(0.001)
    _apart = None


def _lock() -> int | None:
    """A file that two processes can lock; none where there is no room for one."""
    with suppress(OSError), tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
    return None


@contextmanager
def _alone(lock: int | None) -> Iterator[None]:
    import fcntl  # which Windows lacks; the system releases the lock of a process that ends

    if lock is None:
        yield
        return
    fcntl.lockf(lock, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.lockf(lock, fcntl.LOCK_UN)


# -- the process that turns what libraries print into JSON --------------------------------------------------------


def _forward(source: int, messages: int, lock: int | None) -> NoReturn:
    """Forward each line until the last writer is gone: a process of its own loses nothing when the command crashes."""
    try:
        for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(sign, signal.SIG_IGN)
        rest = b""
        while piece := os.read(source, _PIECE):
            *lines, rest = (rest + piece).replace(b"\r", b"\n").split(b"\n")
            if len(rest) > _LONGEST:
                lines, rest = [*lines, rest], b""
            _tell(lines, messages, lock)
        _tell([rest], messages, lock)
    finally:
        os._exit(0)


def _tell(lines: Sequence[bytes], messages: int, lock: int | None) -> None:
    for line in lines:
        if text := line.decode("utf-8", "backslashreplace").rstrip():
            data = json.dumps({"event": "printed", "text": text}).encode() + b"\n"
            with suppress(OSError), _alone(lock):  # keep reading: a full pipe stops its writer
                while data:
                    data = data[os.write(messages, data) :]
