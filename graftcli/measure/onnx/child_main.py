"""The child process for an ONNX file: describes its graph, loads it, runs it.

This script is started by its path and imports nothing from graftcli, so that it starts in a fraction of a second.
`child_process.Child` is its parent. A crash, an endless loop or a lack of memory ends this process only.
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
from types import ModuleType
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

_GRACE = 5.0  # seconds beyond the limit after which this process ends itself, if its parent has not ended it
_NO_MEMORY = ("bad_alloc", "Failed to allocate", "BFCArena", "AllocateRawInternal", "vector::_M_default_append")
_MAX_OUTPUT = 256 << 20  # bytes


class _Request(TypedDict, total=False):
    """A request of the parent, as JSON; `do` decides which other fields it has."""

    do: str  # "describe", "open", "set_input", "run"
    seconds: float  # limits of every request
    memory: int
    bytes: int  # raw bytes that follow the request
    path: str
    threads: int
    type: str
    shape: list[int]
    output: bool


class _LoadedSession:
    """An onnxruntime session on the CPU, and its current input."""

    def __init__(self, path: str, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        # spinning threads would take cores from the next candidate
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.input, self.output = self.session.get_inputs()[0].name, self.session.get_outputs()[0].name
        self.images: NDArray[np.generic] | None = None

    def run(self) -> tuple[float, object]:
        """Run once; return the seconds and the first output."""
        start = time.perf_counter()
        outputs = self.session.run([self.output], {self.input: self.images})
        return time.perf_counter() - start, outputs[0]


class _Worker:
    """Handles requests; an opened file stays open for later ones."""

    session: _LoadedSession | None = None

    def handle(self, request: _Request, data: bytes) -> tuple[dict[str, object], bytes]:
        """The response to a request, and its raw bytes."""
        if request["do"] == "describe":
            macs = _load_module("macs").macs
            return {"facts": _load_module("description").describe(Path(request["path"]), macs)}, b""
        if request["do"] == "open":
            self.session = _LoadedSession(request["path"], request["threads"])
            return {}, b""
        assert self.session is not None  # opened by an earlier request
        if request["do"] == "set_input":
            self.session.images = np.frombuffer(data, request["type"]).reshape(request["shape"])
            return {}, b""
        seconds, output = self.session.run()
        return {"seconds": seconds, **_shape(output)}, _bytes(output) if request["output"] else b""


def _shape(output: object) -> dict[str, object]:
    if isinstance(output, np.ndarray):
        return {"type": str(output.dtype), "shape": list(output.shape)}
    return {"type": type(output).__name__, "shape": None}


def _bytes(output: object) -> bytes:
    """The values of an output; empty if it is not numeric, or far larger than logits."""
    if isinstance(output, np.ndarray) and output.dtype.kind in "fiu" and output.nbytes <= _MAX_OUTPUT:
        return np.ascontiguousarray(output).tobytes()
    return b""


def _load_module(name: str) -> ModuleType:
    """Load a sibling of this script by its path: there is no package here."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _error_response(error: BaseException) -> dict[str, object]:
    reason = " ".join(str(error).split())
    if isinstance(error, MemoryError) or any(word in reason for word in _NO_MEMORY):
        return {"error": "memory", "fix": ""}
    message = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", reason)[:300]
    return {"error": message or type(error).__name__, "fix": getattr(error, "fix", "")}


# ---- limits ----


def _limit(request: _Request, base_memory: int) -> None:
    """Limit the time and, where the system can, the memory of a request."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, request["seconds"] + _GRACE)
    with suppress(ImportError, ValueError, OSError):
        import resource

        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (base_memory + request["memory"], hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _data_memory() -> int:
    """The bytes that already count towards the memory limit."""
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmData:")) * 1024
    return 256 << 20


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles interrupts and ends this process
    requests, responses = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    devnull = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):  # keeps the output of libraries out of the responses
        os.dup2(devnull, descriptor)
    base_memory, worker = _data_memory(), _Worker()
    while line := requests.readline():
        request: _Request = json.loads(line)
        data = requests.read(request["bytes"])
        _limit(request, base_memory)
        try:
            response, payload = worker.handle(request, data)
        except Exception as error:
            response, payload = _error_response(error), b""
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        responses.write(json.dumps({**response, "bytes": len(payload)}).encode() + b"\n" + payload)
        responses.flush()


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    _main()
