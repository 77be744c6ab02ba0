"""Read precision, parameters, multiply-adds and input of an ONNX file, without running it.

A child process with limits reads the graph, once per version of a file.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pydantic import TypeAdapter

from graftcli.environment.machine import memory as machine_memory
from graftcli.errors import CheckpointError
from graftcli.measure.onnx.child_process import Child, ChildError, ChildLimits, Refusal

SCRIPT = Path(__file__).with_name("child_main.py")
SECONDS = 10.0  # to load and run a small file
_BYTES_PER_SECOND, _MAX_EXTRA_SECONDS = 20e6, 300.0  # extra time for large files
_READ_SHARE = 0.5  # of SECONDS, to read the graph
MEMORY = 1_500_000_000  # bytes, beyond what a file of this size needs
_FREE_SHARE = 0.8  # of the free memory
_COPIES = 6  # of the file's bytes, while its graph is read


@dataclass(frozen=True)
class OnnxMetadata:
    """The preprocessing and classes in the `metadata_props` of a file; None for a missing entry."""

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: tuple[int, int] | None = None
    crop_pct: float | None = None
    interpolation: str | None = None
    classes: tuple[str, ...] = ()
    squash: bool = False


@dataclass(frozen=True)
class OnnxFacts:
    """The facts about an ONNX file that are known before it runs."""

    precision: str  # fp32, fp16, bf16, int8
    bytes: int  # on disk, including external data files
    params: int  # of the graph, in which BatchNorm may be folded
    macs: int | None  # per image; None if shapes cannot be inferred
    input_type: str  # float32, float16, float64, uint8
    input_shape: tuple[int | None, ...]  # None: any size
    metadata: OnnxMetadata


_FACTS = TypeAdapter(OnnxFacts)


def read_onnx(path: Path, seconds: float = SECONDS) -> OnnxFacts:
    """Read the facts of an ONNX file; reading a small file may take half of `seconds`."""
    try:
        if not path.exists():
            raise CheckpointError(f"There is no file `{path}`.", "Check the path.")
        if not path.is_file():
            raise CheckpointError(f"`{path}` is a folder, a device or a pipe, not a file.", "Give an ONNX file.")
        state = path.stat()
    except (OSError, ValueError) as error:  # an impossible file name
        raise CheckpointError(f"`{path}` cannot be read: {error}.", "Check the path.") from error
    return _read(path.absolute(), path, seconds, (state.st_mtime_ns, state.st_size, state.st_ino))


@lru_cache(maxsize=64)
def _read(absolute: Path, path: Path, seconds: float, state: tuple[int, int, int]) -> OnnxFacts:
    """The facts of a file; `state` makes the cache miss when the file changes."""
    size = state[1]
    child = Child(SCRIPT)
    try:
        limits = request_limits(_READ_SHARE * seconds, MEMORY + _COPIES * size, size)
        response, _ = child.send({"do": "describe", "path": str(absolute)}, limits)
    except ChildError as error:
        raise checkpoint_error(path, "Reading its graph", error, limits) from error
    finally:
        child.close()
    return _FACTS.validate_python(response["facts"])


def request_limits(seconds: float, memory: int, size: int) -> ChildLimits:
    """The limits of a request about a file of `size` bytes; memory is capped by what is free."""
    free = machine_memory().free
    cap = memory if free is None else max(MEMORY, int(_FREE_SHARE * free))
    return ChildLimits(seconds + min(_MAX_EXTRA_SECONDS, size / _BYTES_PER_SECOND), min(memory, cap))


def checkpoint_error(path: Path, action: str, error: ChildError, limits: ChildLimits) -> CheckpointError:
    """The CheckpointError for a file whose child failed during `action`."""
    if isinstance(error, Refusal) and error.fix:
        return CheckpointError(f"`{path}` {error}", error.fix)
    if isinstance(error, Refusal) and str(error) == "memory":
        message = f"`{path}` is refused. {action} takes more than {limits.memory / 1e9:.1f} GB of memory."
        return CheckpointError(message, "Give a smaller image or batch, or a file that needs less.")
    if isinstance(error, Refusal):
        return CheckpointError(f"`{path}` is refused. {action} fails: {str(error).rstrip('.')}.", "Export it again.")
    return CheckpointError(f"`{path}` is refused. {action} {error}.", "Give a file from a source that you trust.")
