"""A child process with limited time and memory, for work that a malicious file could make endless.

The child runs a script that imports neither graftcli nor torch. Requests and responses are lines of JSON, each followed
by the number of raw bytes in its `bytes` field.
"""

import json
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

Response = dict[str, Any]  # JSON

_MAX_LINE = 64 << 20  # bytes of a line of JSON
_MAX_PAYLOAD = 512 << 20  # bytes that follow it; a larger response is treated as an attack


@dataclass(frozen=True)
class ChildLimits:
    """Limits per request. Memory counts beyond what the child holds at its start; it is enforced on Linux only."""

    seconds: float
    memory: int  # bytes


class ChildError(Exception):
    """Why a child did not respond, as the predicate of a sentence whose subject is the file."""


class Refusal(ChildError):
    """What the child finds wrong with the file, and the fix."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


class Child:
    """The process. It ends when this object is deleted or the parent process ends."""

    def __init__(self, script: Path) -> None:
        # -P: do not search the script's folder for modules
        command = [sys.executable, "-P", str(script)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._close = weakref.finalize(self, _end, self._process)
        self._timed_out = False

    def send(
        self, request: Mapping[str, object], limits: ChildLimits, data: bytes | memoryview = b""
    ) -> tuple[Response, bytes]:
        """Send a request; return the response and its raw bytes. Raises ChildError if there is none."""
        size = memoryview(data).nbytes
        line = json.dumps({**request, "bytes": size, "seconds": limits.seconds, "memory": limits.memory})
        timer = threading.Timer(limits.seconds, self._stop)
        timer.start()
        try:
            stdin, stdout = cast(IO[bytes], self._process.stdin), cast(IO[bytes], self._process.stdout)
            stdin.write(line.encode() + b"\n")
            stdin.write(data)
            stdin.flush()
            response, payload = _read_response(stdout)
        except (OSError, ValueError, RecursionError) as error:
            raise self._failure(limits) from error
        finally:
            timer.cancel()
        if "error" in response:
            raise Refusal(str(response["error"]), str(response.get("fix", "")))
        return response, payload

    def close(self) -> None:
        """End the process now."""
        self._close()

    def _stop(self) -> None:
        self._timed_out = True
        self._process.kill()

    def _failure(self, limits: ChildLimits) -> ChildError:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        code = self._process.poll()
        self._close()
        if self._timed_out or code == -getattr(signal, "SIGALRM", 0):
            return ChildError(f"takes longer than {limits.seconds:.0f} s")
        if code is not None and code < 0:
            return ChildError(f"crashes the process that runs it ({signal.Signals(-code).name})")
        return ChildError(f"crashes the process that runs it (exit code {code})")


def _read_response(stream: IO[bytes]) -> tuple[Response, bytes]:
    """Read one response; raises ValueError if the stream ends or holds something else."""
    response = json.loads(stream.readline(_MAX_LINE))
    if not isinstance(response, dict) or not 0 <= int(response.get("bytes", 0)) <= _MAX_PAYLOAD:
        raise ValueError("not a response")
    size = int(response.get("bytes", 0))
    payload = stream.read(size)
    if len(payload) < size:
        raise ValueError("the response is truncated")
    return response, payload


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):  # buffered requests cannot be written any more
            cast(IO[bytes], pipe).close()
