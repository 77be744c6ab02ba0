"""Benchmark ONNX files with onnxruntime, each in a child process with limited time and memory.

A file may come from anywhere, and its graph can loop forever or request all memory in any run, depending on the pixels.
This process therefore never loads one. The child measures its runs itself, which excludes the communication.
"""

import math
import time
import weakref
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from graftcli.errors import CheckpointError
from graftcli.images.pixels import Preprocess, normalise
from graftcli.measure.candidate import Array, Candidate, PreparedInput
from graftcli.measure.onnx.child_process import Child, ChildError, ChildLimits, Response
from graftcli.measure.onnx.facts import MEMORY, SCRIPT, SECONDS, OnnxFacts, checkpoint_error, read_onnx, request_limits

_MAX_INPUT = 1 << 26  # input values per batch
_COPIES = 4  # of the weights, in memory
_BYTES_PER_VALUE = 512  # of feature maps, per input value
_VALUES_PER_SECOND = 2e6  # in the first run: extra time for large images
_BYTES_PER_THREAD = 16 << 20
_SLOWDOWN = 3.0  # limit of a run's time, as a multiple of what the first run predicts

_NUMERIC = ("float32", "float16", "float64", "int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64")


class _Session:
    """An ONNX file in a child process, in which it was loaded and run once on black images."""

    def __init__(self, path: Path, facts: OnnxFacts, shape: tuple[int, ...], threads: int, seconds: float) -> None:
        self.path, self.batch, self.input_type = path, facts.input_shape[0], facts.input_type
        self.channels_last = _is_channels_last(facts)
        self._memory = MEMORY + _COPIES * facts.bytes + threads * _BYTES_PER_THREAD
        self._inputs: Array | None = None  # the child's current input
        self._seconds_per_image = 0.0
        self._child = Child(SCRIPT)
        limits = request_limits(seconds + math.prod(shape) / _VALUES_PER_SECOND, self._memory, facts.bytes)
        deadline = time.monotonic() + limits.seconds  # to load the file and run it once
        request = {"do": "open", "path": str(path.absolute()), "threads": threads}
        self._send("Loading it", request, limits)
        self._seconds = max(1.0, deadline - time.monotonic())
        self._seconds_per_image = self._time(np.zeros(shape, self.input_type)) / shape[0]
        self._seconds = seconds

    def prepare(self, pixels: Tensor, preprocess: Preprocess) -> PreparedInput:
        images = pixels if self.input_type == "uint8" else normalise(pixels, preprocess)  # uint8: the graph normalises
        images = images.permute(0, 2, 3, 1) if self.channels_last else images
        inputs = np.ascontiguousarray(images.numpy().astype(self.input_type, copy=False))
        return PreparedInput(partial(self._logits, inputs), partial(self._time, inputs))

    def _logits(self, inputs: Array) -> Array:
        response, data = self._run(inputs, output=True)
        kind, shape = response["type"], response["shape"] or ()
        if kind not in _NUMERIC or len(data) != math.prod(shape) * np.dtype(kind).itemsize:
            size = "x".join(map(str, shape)) or "no shape"
            message = f"`{self.path}` returns {kind} of {size}, which are not logits."
            raise CheckpointError(message, "Give a network that classifies images.")
        return np.frombuffer(data, kind).reshape(shape)

    def _time(self, inputs: Array) -> float:
        return float(self._run(inputs, output=False)[0]["seconds"])

    def _run(self, inputs: Array, *, output: bool) -> tuple[Response, bytes]:
        count = len(inputs)
        action = f"Running it on {count} image{'s' * (count > 1)}"
        if inputs is not self._inputs:
            seconds = self._seconds + _SLOWDOWN * self._seconds_per_image * count
            self._limits = request_limits(seconds, self._memory + _BYTES_PER_VALUE * inputs.size, 0)
            request = {"do": "set_input", "type": self.input_type, "shape": inputs.shape}
            self._send(action, request, self._limits, inputs.data)
            self._inputs = inputs
        return self._send(action, {"do": "run", "output": output}, self._limits)

    def _send(
        self, action: str, request: Mapping[str, object], limits: ChildLimits, data: memoryview | bytes = b""
    ) -> tuple[Response, bytes]:
        try:
            return self._child.send(request, limits, data)
        except ChildError as error:
            raise checkpoint_error(self.path, action, error, limits) from error


_sessions: "weakref.WeakValueDictionary[tuple[object, ...], _Session]" = weakref.WeakValueDictionary()


def onnx_candidate(
    path: Path,
    threads: int,
    *,
    name: str | None = None,
    size: tuple[int, int, int] | None = None,
    seconds: float = SECONDS,
) -> Candidate:
    """A candidate that onnxruntime runs with `threads` threads; `size` is its input where the file leaves it open.

    Loads and runs the file once, within `seconds` for a small file, so that an unusable one is refused at once.
    """
    facts = read_onnx(path, seconds)
    shape = facts.input_shape
    if len(shape) != 4:
        message = f"`{path}` takes {len(shape)} dimensions; a batch of images has four."
        raise CheckpointError(message, "Give a network that takes batches of images.")
    channels_last = _is_channels_last(facts)
    declared = (shape[3], *shape[1:3]) if channels_last else shape[1:]
    channels, height, width = (side or default for side, default in zip(declared, size or (3, 224, 224), strict=True))
    batch = shape[0] or 1
    inputs = (batch, height, width, channels) if channels_last else (batch, channels, height, width)
    if math.prod(inputs) > _MAX_INPUT:
        message = f"`{path}` takes {'x'.join(map(str, inputs))} values per batch; the limit is {_MAX_INPUT:,}."
        raise CheckpointError(message, "Export it for a smaller batch or smaller images, or give --img-size.")
    described = ("onnx", facts.precision, facts.bytes, facts.params, facts.macs)
    session = _session(path, facts, inputs, threads, seconds)
    return Candidate(name or path.name, *described, (channels, height, width), session)


def _is_channels_last(facts: OnnxFacts) -> bool:
    return facts.input_shape[1] not in (1, 3) and facts.input_shape[3] in (1, 3)


def _session(path: Path, facts: OnnxFacts, shape: tuple[int, ...], threads: int, seconds: float) -> _Session:
    """The session of a file; one that is still in use is shared until the file changes."""
    state = path.stat()
    key = (path.absolute(), state.st_mtime_ns, state.st_size, state.st_ino, shape, threads, seconds)
    if (session := _sessions.get(key)) is None:
        session = _sessions[key] = _Session(path, facts, shape, threads, seconds)
    return session
