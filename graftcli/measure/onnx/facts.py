"""What an ONNX file holds, read from its graph: precision, parameters, multiply-adds, its input. Nothing is run.

A child process with limits reads the graph, once for each version of a file.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from graftcli.environment.machine import memory as machine_memory
from graftcli.errors import CheckpointError
from graftcli.measure.onnx.child_process import Child, ChildError, ChildLimits, Refusal

SCRIPT = Path(__file__).with_name("child_main.py")
SECONDS = 10.0  # to load and run any file
_BYTES_PER_SECOND, _LONGEST = 20e6, 300.0  # more of them for a large file, and the most
_READING = 0.5  # of these seconds: to read its graph
MEMORY = 1_500_000_000  # beyond what a file of this size needs
_SHARE = 0.8  # of the memory that is free
_COPIES = 6  # of a file's bytes, while its graph is read


@dataclass(frozen=True)
class OnnxMetadata:
    """What a file says in its `metadata_props` of the images that it wants and of its classes; None: nothing."""

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: tuple[int, int] | None = None
    crop_pct: float | None = None
    interpolation: str | None = None
    classes: tuple[str, ...] = ()
    squash: bool = False


@dataclass(frozen=True)
class OnnxFacts:
    precision: str  # fp32, fp16, bf16, int8
    bytes: int  # on disk, with the files of weights beside it
    params: int  # numbers it multiplies with or adds: what BatchNorm was folded away is gone
    macs: int | None  # for one image; None where the graph does not tell its shapes
    input_type: str  # float32, float16, float64, uint8
    input_shape: tuple[int | None, ...]  # None where any size does
    told: OnnxMetadata


def read_onnx(path: Path, seconds: float = SECONDS) -> OnnxFacts:
    """What the file says of itself; half of `seconds` is how long reading a small file may take."""
    try:
        if not path.exists():
            raise CheckpointError(f"There is no file `{path}`.", "Check the path.")
        if not path.is_file():
            raise CheckpointError(f"`{path}` is a folder, a device or a pipe, not a file.", "Give an ONNX file.")
        state = path.stat()
    except (OSError, ValueError) as error:  # a name that no file can have
        raise CheckpointError(f"`{path}` cannot be read: {error}.", "Check the path.") from error
    return _read(path.absolute(), path, seconds, (state.st_mtime_ns, state.st_size, state.st_ino))


@lru_cache(maxsize=64)
def _read(place: Path, path: Path, seconds: float, state: tuple[int, int, int]) -> OnnxFacts:
    """The facts of a file in this state."""
    size = state[1]
    child = Child(SCRIPT)
    try:
        limits = limits_of(_READING * seconds, MEMORY + _COPIES * size, size)
        found = child.ask({"do": "describe", "path": str(place)}, limits)[0]["facts"]
    except ChildError as error:
        raise refused(path, "Reading its graph", error, limits) from error
    finally:
        child.close()
    told: dict[str, Any] = {name: _frozen(value) for name, value in found.pop("told").items()}
    return OnnxFacts(**{name: _frozen(value) for name, value in found.items()}, told=OnnxMetadata(**told))


def limits_of(seconds: float, memory: int, size: int) -> ChildLimits:
    """The limits of a request that concerns a file of `size` bytes; memory is at most what is free."""
    free = machine_memory().free
    most = memory if free is None else max(MEMORY, int(_SHARE * free))
    return ChildLimits(seconds + min(_LONGEST, size / _BYTES_PER_SECOND), min(memory, most))


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def refused(path: Path, doing: str, error: ChildError, limits: ChildLimits) -> CheckpointError:
    """The refusal of a file, for what became of its child while it was `doing` something."""
    if isinstance(error, Refusal) and error.fix:
        return CheckpointError(f"`{path}` {error}", error.fix)
    if isinstance(error, Refusal) and str(error) == "memory":
        found = f"`{path}` is refused. {doing} takes more than {limits.memory / 1e9:.1f} GB of memory."
        return CheckpointError(found, "Give a smaller image or batch, or a file that needs less.")
    if isinstance(error, Refusal):
        return CheckpointError(f"`{path}` is refused. {doing} ends with: {str(error).rstrip('.')}.", "Export it again.")
    return CheckpointError(f"`{path}` is refused. {doing} {error}.", "Give a file from a source that you trust.")
