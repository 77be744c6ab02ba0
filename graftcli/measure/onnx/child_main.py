"""What the child process of an ONNX file does: describe its graph, load it, run it.

This file is a script that is started by its path. It imports nothing of graftcli, so that a child starts in a fraction
of a second; `child.Child` speaks with it. A crash, a loop without end or a lack of memory ends this process alone.
"""

import importlib.util
import json
import os
import re
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

_GRACE = 5.0  # seconds beyond the limit, at which this process ends where its parent has not ended it
_NO_MEMORY = ("bad_alloc", "Failed to allocate", "BFCArena", "AllocateRawInternal", "vector::_M_default_append")
_MOST_BACK = 256 << 20  # bytes of what a network gives


class _Session:
    """A file in onnxruntime, on the CPU, with the input that it was given last."""

    def __init__(self, path: str, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        # threads that wait for the next image would take the cores from the rung whose turn is next
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.input, self.output = self.session.get_inputs()[0].name, self.session.get_outputs()[0].name
        self.given: Any = None

    def run(self) -> tuple[float, Any]:
        """The seconds that one run takes, and what the first output holds."""
        began = time.perf_counter()
        found = self.session.run([self.output], {self.input: self.given})
        return time.perf_counter() - began, found[0]


def _answer(request: dict[str, Any], data: bytes, held: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    if request["do"] == "describe":
        macs = _beside("macs").macs
        return {"facts": _beside("description").describe(Path(request["path"]), macs)}, b""
    if request["do"] == "open":
        held["session"] = _Session(request["path"], request["threads"])
        return {}, b""
    if request["do"] == "give":
        held["session"].given = np.frombuffer(data, request["type"]).reshape(request["shape"])
        return {}, b""
    seconds, found = held["session"].run()
    return {"seconds": seconds, **_shape(found)}, _bytes(found) if request["wanted"] else b""


def _shape(found: Any) -> dict[str, Any]:
    array = isinstance(found, np.ndarray)
    return {"type": str(found.dtype) if array else type(found).__name__, "shape": list(found.shape) if array else None}


def _bytes(found: Any) -> bytes:
    """The numbers of what a network gives; nothing where they are none, or far more than logits."""
    is_numeric = isinstance(found, np.ndarray) and found.dtype.kind in "fiu" and found.nbytes <= _MOST_BACK
    return np.ascontiguousarray(found).tobytes() if is_numeric else b""


def _beside(name: str) -> Any:
    """A module beside this script, loaded by its path: neither is part of a package here."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _refusal(error: BaseException) -> dict[str, Any]:
    reason = " ".join(str(error).split())
    if isinstance(error, MemoryError) or any(word in reason for word in _NO_MEMORY):
        return {"error": "memory", "fix": ""}
    told = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", reason)[:300]
    return {"error": told or type(error).__name__, "fix": getattr(error, "fix", "")}


# ---- limits ----


def _limit(request: dict[str, Any], started: int) -> None:
    """End this process some seconds after its time is over, and refuse it more memory, where the system can."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, request["seconds"] + _GRACE)
    with suppress(ImportError, ValueError, OSError):
        import resource

        most = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (started + request["memory"], most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _held() -> int:
    """The bytes that the limit of memory counts already."""
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmData:")) * 1024
    return 256 << 20


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted, and ends this process
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):  # what a library says there is no answer
        os.dup2(nothing, number)
    started, held = _held(), dict[str, Any]()
    while line := requests.readline():
        request = json.loads(line)
        data = requests.read(request["bytes"])
        _limit(request, started)
        try:
            answer, more = _answer(request, data, held)
        except Exception as error:
            answer, more = _refusal(error), b""
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(json.dumps({**answer, "bytes": len(more)}).encode() + b"\n" + more)
        answers.flush()


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    _main()
