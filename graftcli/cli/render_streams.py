"""Output streams of the process: stdout for the result, stderr for everything else.

A closed stderr never ends a command: output to it is dropped. A closed stdout raises `BrokenPipeError`, however the
system reports it. With --json, stderr contains only JSON: each line that a library prints, from Python or C, becomes
a JSON line.
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

_CLOSED = (errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO, errno.ESTALE)
_CHUNK = 2**16  # bytes of library output that are read at once
_MAX_LINE = 2**13  # bytes after which an unfinished line is forwarded
_TIMEOUT = 2.0  # seconds to wait for the forwarding process before the command exits


class ResultStream(io.TextIOWrapper):
    """stdout: reports a closed terminal as a broken pipe, and escapes characters that cannot be encoded."""

    def __init__(self, number: int) -> None:
        super().__init__(
            open(number, "wb", closefd=False),  # noqa: SIM115
            encoding=_encoding(sys.stdout),
            errors="backslashreplace",
            line_buffering=os.isatty(number),
        )

    def write(self, text: str) -> int:
        """Write text to the buffer."""
        with _broken_pipe():
            return super().write(text)

    def flush(self) -> None:
        """Flush the buffer."""
        with _broken_pipe():
            super().flush()


class Messages(io.TextIOWrapper):
    """stderr: drops output that cannot be written, and all output once the stream is closed."""

    def __init__(self, number: int) -> None:
        super().__init__(
            open(number, "wb", closefd=False),  # noqa: SIM115
            encoding=_encoding(sys.stderr),
            errors="backslashreplace",
            line_buffering=True,
        )

    def write(self, text: str) -> int:
        """Write text if the stream is open."""
        with _drop_if_closed(self):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the buffer if the stream is open."""
        with _drop_if_closed(self):
            super().flush()


def _encoding(file: TextIO | None) -> str:
    return file.encoding if file is not None else "utf-8"


@contextmanager
def _broken_pipe() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _CLOSED:
            raise BrokenPipeError(errno.EPIPE, "stdout has no reader") from error
        raise


@contextmanager
def _drop_if_closed(file: IO[str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _CLOSED:
            redirect_to_null(file)


def discard_result() -> None:
    """Drop the rest of the result after stdout is closed."""
    redirect_to_null(_json_streams.result if _json_streams else sys.stdout)


def redirect_to_null(file: IO[str]) -> None:
    """Redirect a file to the null device, so that neither Python nor C code hits the broken pipe again."""
    with suppress(OSError, ValueError):  # files of tests have no descriptor
        null, descriptor = os.open(os.devnull, os.O_WRONLY), file.fileno()
        os.dup2(null, descriptor, inheritable=descriptor <= 2)
        os.close(null)


@dataclass(frozen=True)
class _JsonStreams:
    """The real outputs in JSON mode, and the lock of the processes that write to them."""

    result: ResultStream
    messages: Messages
    lock: int | None


_json_streams: _JsonStreams | None = None


def write_result(text: str) -> None:
    """Write the result on stdout."""
    file = _json_streams.result if _json_streams else sys.stdout
    file.write(text)
    file.flush()


def write_message(text: str) -> None:
    """Write whole lines on stderr without interleaving."""
    if _json_streams is None:
        sys.stderr.write(text)
        sys.stderr.flush()
        return
    with _locked(_json_streams.lock):
        _json_streams.messages.write(text)
        _json_streams.messages.flush()


@contextmanager
def standard() -> Iterator[None]:
    """Replace sys.stdout and sys.stderr by these streams until the process ends."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # the parent process closed it: otherwise, the next opened file would get this descriptor
            os.open(os.devnull, os.O_RDWR)
    sys.stdout, sys.stderr = ResultStream(1), Messages(2)
    try:
        yield
    finally:
        try:
            sys.stdout.flush()
        except OSError:
            redirect_to_null(sys.stdout)  # already reported; Python would report it again and exit with 120


@contextmanager
def json_only(enabled: bool) -> Iterator[None]:
    """Restrict stdout to `write_result` and stderr to JSON, on systems with fork."""
    global _json_streams
    if not enabled or not hasattr(os, "fork"):
        yield
        return
    real = os.dup(1), os.dup(2)
    lock = _lock()
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        for descriptor in (1, 2, sink, real[0]):
            os.close(descriptor)
        _forward(source, real[1], lock)
    os.dup2(sink, 1), os.dup2(sink, 2)
    for descriptor in (source, sink):
        os.close(descriptor)
    _json_streams = _JsonStreams(ResultStream(real[0]), Messages(real[1]), lock)
    try:
        yield
    except SystemExit:
        _restore(_json_streams, child)
        for file in (sys.stdout, sys.stderr):  # drops what libraries print while Python shuts down
            redirect_to_null(file)
        raise
    except BaseException:
        _restore(_json_streams, child)
        raise


def _restore(streams: _JsonStreams, child: int) -> None:
    """Restore the outputs after all printed text has been forwarded."""
    global _json_streams
    for file in (sys.stdout, sys.stderr, streams.messages):
        with suppress(OSError, ValueError):
            file.flush()
    with suppress(OSError):
        streams.result.flush()
    os.dup2(streams.result.fileno(), 1), os.dup2(streams.messages.fileno(), 2)
    end = time.monotonic() + _TIMEOUT
    with suppress(ChildProcessError):
        while os.waitpid(child, os.WNOHANG)[0] == 0 and time.monotonic() < end:
            time.sleep(0.001)
    _json_streams = None


def _lock() -> int | None:
    """Return a descriptor that processes can lock; None if no temporary file can be created."""
    with suppress(OSError), tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
    return None


@contextmanager
def _locked(lock: int | None) -> Iterator[None]:
    import fcntl  # not available on Windows; the system releases the lock when its process ends

    if lock is None:
        yield
        return
    fcntl.lockf(lock, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.lockf(lock, fcntl.LOCK_UN)


# -- the process that converts library output to JSON -------------------------------------------------------------


def _forward(source: int, messages: int, lock: int | None) -> NoReturn:
    """Forward lines until the last writer closes the pipe; as a separate process it also outlives a crash."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)
        rest = b""
        while chunk := os.read(source, _CHUNK):
            *lines, rest = (rest + chunk).replace(b"\r", b"\n").split(b"\n")
            if len(rest) > _MAX_LINE:
                lines, rest = [*lines, rest], b""
            _write_lines(lines, messages, lock)
        _write_lines([rest], messages, lock)
    finally:
        os._exit(0)


def _write_lines(lines: Sequence[bytes], messages: int, lock: int | None) -> None:
    for line in lines:
        if text := line.decode("utf-8", "backslashreplace").rstrip():
            data = json.dumps({"event": "printed", "text": text}).encode() + b"\n"
            with suppress(OSError), _locked(lock):  # keep reading: a full pipe would block its writer
                while data:
                    data = data[os.write(messages, data) :]
