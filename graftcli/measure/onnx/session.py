"""ONNX files as rungs of the ladder: onnxruntime runs each in a child process, whose time and memory are limited.

A file may come from anywhere, and a graph can loop without end or ask for all memory in any run, depending on the
pixels alone. So this process never loads one. The child measures its own runs: what crosses between the processes is
not timed.
"""

import math
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from graftcli.errors import CheckpointError
from graftcli.images.pixels import Preprocess, normalise
from graftcli.measure.benchmark import Candidate
from graftcli.measure.onnx.child_process import Child, ChildError, ChildLimits
from graftcli.measure.onnx.facts import MEMORY, SCRIPT, SECONDS, OnnxFacts, limits_of, read_onnx, refused

_MOST_INPUT = 1 << 26  # numbers that a network is given at once
_COPIES = 4  # of the weights, in memory
_PER_NUMBER = 512  # bytes of feature maps for each number of the input
_NUMBERS_PER_SECOND = 2e6  # of a first image: a large one may take long
_PER_THREAD = 16 << 20  # bytes
_SLOWER = 3.0  # times as long as the first run suggests is the most that a run may take

_NUMERIC = ("float32", "float16", "float64", "int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64")


class _Session:
    """A file in a child process, loaded and run once on black images."""

    def __init__(self, path: Path, facts: OnnxFacts, shape: tuple[int, ...], threads: int, seconds: float) -> None:
        self.path, self.batch, self.input_type = path, facts.input_shape[0], facts.input_type
        self.channels_last = _is_channels_last(facts)
        self._memory = MEMORY + _COPIES * facts.bytes + threads * _PER_THREAD
        self._given: NDArray[Any] | None = None  # what the child holds
        self._each = 0.0  # seconds of an image
        self._child = Child(SCRIPT)
        limits = limits_of(seconds + math.prod(shape) / _NUMBERS_PER_SECOND, self._memory, facts.bytes)
        ends = time.monotonic() + limits.seconds  # for loading the file and running it once
        request = {"do": "open", "path": str(path.absolute()), "threads": threads}
        self._ask("Loading it", request, limits)
        self._seconds = max(1.0, ends - time.monotonic())
        self._each = self.seconds(np.zeros(shape, self.input_type)) / shape[0]
        self._seconds = seconds

    def ready(self, pixels: Tensor, preprocess: Preprocess) -> NDArray[Any]:
        raw = self.input_type == "uint8"  # its own graph normalises
        given = pixels if raw else normalise(pixels, preprocess)
        given = given.permute(0, 2, 3, 1) if self.channels_last else given
        return np.ascontiguousarray(given.numpy().astype(self.input_type, copy=False))

    def run(self, given: NDArray[Any]) -> NDArray[Any]:
        answer, data = self._run(given, wanted=True)
        kind, shape = answer["type"], answer["shape"] or ()
        if kind not in _NUMERIC or len(data) != math.prod(shape) * np.dtype(kind).itemsize:
            found = f"`{self.path}` gives {kind} of {'x'.join(map(str, shape)) or 'no shape'}, which are no logits."
            raise CheckpointError(found, "Give a network that classifies images.")
        return np.frombuffer(data, kind).reshape(shape)

    def seconds(self, given: NDArray[Any]) -> float:
        return float(self._run(given, wanted=False)[0]["seconds"])

    def _run(self, given: NDArray[Any], *, wanted: bool) -> tuple[dict[str, Any], bytes]:
        count = len(given)
        doing = f"Running it on {count} image{'s' * (count > 1)}"
        if given is not self._given:
            seconds = self._seconds + _SLOWER * self._each * count
            self._limits = limits_of(seconds, self._memory + _PER_NUMBER * given.size, 0)
            request = {"do": "give", "type": self.input_type, "shape": given.shape}
            self._ask(doing, request, self._limits, given)
            self._given = given
        return self._ask(doing, {"do": "run", "wanted": wanted}, self._limits)

    def _ask(
        self, doing: str, request: dict[str, Any], limits: ChildLimits, data: NDArray[Any] | bytes = b""
    ) -> tuple[dict[str, Any], bytes]:
        try:
            return self._child.ask(request, limits, data)
        except ChildError as error:
            raise refused(self.path, doing, error, limits) from error


_sessions: "weakref.WeakValueDictionary[tuple[Any, ...], _Session]" = weakref.WeakValueDictionary()


def of_file(
    path: Path,
    threads: int,
    *,
    name: str | None = None,
    size: tuple[int, int, int] | None = None,
    seconds: float = SECONDS,
) -> Candidate:
    """A rung that onnxruntime runs with `threads` threads; `size` is its input where the file leaves it open.

    The file is loaded and run once here, in at most `seconds` for a small file, so that one that cannot be run is
    refused at once.
    """
    facts = read_onnx(path, seconds)
    shape = facts.input_shape
    if len(shape) != 4:
        found = f"`{path}` takes {len(shape)} dimensions, not images of four."
        raise CheckpointError(found, "Give a network that takes batches of images.")
    last = _is_channels_last(facts)
    own = (shape[3], *shape[1:3]) if last else shape[1:]
    full = tuple(side or open_ for side, open_ in zip(own, size or (3, 224, 224), strict=True))
    given = (shape[0] or 1, *full[1:], full[0]) if last else (shape[0] or 1, *full)
    if math.prod(given) > _MOST_INPUT:
        found = f"`{path}` takes {'x'.join(map(str, given))} numbers at once; {_MOST_INPUT:,} is the most."
        raise CheckpointError(found, "Export it for a smaller batch or smaller images, or give --img-size.")
    described = ("onnx", facts.precision, facts.bytes, facts.params, facts.macs)
    return Candidate(
        name or path.name, *described, (full[0], full[1], full[2]), _session(path, facts, given, threads, seconds)
    )


def _is_channels_last(facts: OnnxFacts) -> bool:
    return facts.input_shape[1] not in (1, 3) and facts.input_shape[3] in (1, 3)


def _session(path: Path, facts: OnnxFacts, shape: tuple[int, ...], threads: int, seconds: float) -> _Session:
    """The session of a file in this state; one that is still held somewhere is used again."""
    state = path.stat()
    key = (path.absolute(), state.st_mtime_ns, state.st_size, state.st_ino, shape, threads, seconds)
    if (session := _sessions.get(key)) is None:
        session = _sessions[key] = _Session(path, facts, shape, threads, seconds)
    return session
