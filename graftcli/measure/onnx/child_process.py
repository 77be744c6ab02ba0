"""A child process that does what a file may make endless: its time and its memory are limited.

The child runs a script of its own, which imports neither graftcli nor torch. Requests and answers are lines of JSON,
each followed by as many raw bytes as it says.
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

_LONGEST = 64 << 20  # bytes of a line of JSON, and
_LARGEST = 512 << 20  # of what follows it: an answer with more is taken for an attack


@dataclass(frozen=True)
class ChildLimits:
    """What one request may take. Memory counts beyond what the child holds when it starts; it is limited on Linux."""

    seconds: float
    memory: int  # bytes


class ChildError(Exception):
    """Why a child gave no answer, as the end of a sentence that begins with the file's name."""


class Refusal(ChildError):
    """What the child found wrong with the file, and the fix."""

    def __init__(self, found: str, fix: str) -> None:
        super().__init__(found)
        self.fix = fix


class Child:
    """The process; it ends when this object does, and when this process does."""

    def __init__(self, script: Path) -> None:
        # -P: the folder of the script is not searched for modules
        command = [sys.executable, "-P", str(script)]
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, **pipes)
        self._close = weakref.finalize(self, _end, self._process)
        self._late = False

    def ask(self, request: Mapping[str, Any], limits: ChildLimits, data: Any = b"") -> tuple[dict[str, Any], bytes]:
        """The answer to a request, and the bytes that belong to it; ChildError where there is none."""
        size = memoryview(data).nbytes
        line = json.dumps({**request, "bytes": size, "seconds": limits.seconds, "memory": limits.memory})
        watch = threading.Timer(limits.seconds, self._stop)
        watch.start()
        try:
            given, taken = cast(IO[bytes], self._process.stdin), cast(IO[bytes], self._process.stdout)
            given.write(line.encode() + b"\n")
            given.write(data)
            given.flush()
            answer, more = _answer(taken)
        except (OSError, ValueError, RecursionError) as error:
            raise self._ended(limits) from error
        finally:
            watch.cancel()
        if "error" in answer:
            raise Refusal(str(answer["error"]), str(answer.get("fix", "")))
        return answer, more

    def close(self) -> None:
        """End the process now."""
        self._close()

    def _stop(self) -> None:
        self._late = True
        self._process.kill()

    def _ended(self, limits: ChildLimits) -> ChildError:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        code = self._process.poll()
        self._close()
        if self._late or code == -getattr(signal, "SIGALRM", 0):
            return ChildError(f"takes longer than {limits.seconds:.0f} s")
        if code is not None and code < 0:
            return ChildError(f"ends the process that runs it ({signal.Signals(-code).name})")
        return ChildError(f"ends the process that runs it (exit code {code})")


def _answer(stream: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    """One answer; ValueError where the stream ends, or where it holds something else."""
    line = stream.readline(_LONGEST)
    answer = json.loads(line)
    if not isinstance(answer, dict) or not 0 <= int(answer.get("bytes", 0)) <= _LARGEST:
        raise ValueError("no answer")
    size = int(answer.get("bytes", 0))
    more = stream.read(size)
    if len(more) < size:
        raise ValueError("the answer is cut short")
    return answer, more


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):  # what was not written yet goes nowhere
            cast(IO[bytes], pipe).close()
