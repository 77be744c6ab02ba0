"""What a command leaves behind: the bytes of its results, files that are half written, temporary files."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.campaigns import shim
from tests.bench.campaigns.harness import Case, temporary_of
from tests.bench.campaigns.place import Command, finish

TEMPORARY = ".tmp"
_HEADER = 8  # bytes of a safetensors file that hold the length of its header


@dataclass(frozen=True)
class Undisturbed:
    """A command that nothing disturbed: how long it takes, what it writes, what comes out."""

    seconds: float
    operations: tuple[shim.Operation, ...]
    digests: Mapping[str, str]


def undisturbed(command: Command, folder: Path) -> Undisturbed:
    """Run the command in a new folder: the one that it is run in later too, for paths are part of some results."""
    notes = folder.with_name(f"{folder.name}.operations")
    command.start(folder)
    case = Case(command.argv, folder, within=lambda: shim.arm(folder, 0), behind=lambda: note(notes))
    ended = finish(case)
    found = Undisturbed(ended.seconds, noted(notes), digests(folder, command.results))
    if not found.digests or not found.operations:
        raise SystemExit(f"`{command.name}` left no results {command.results}, or wrote nothing")
    return found


def note(file: Path) -> None:
    """In a child: what the shim counted."""
    file.write_text(json.dumps([[one.kind, one.path] for one in shim.operations()]), encoding="utf-8")


def noted(file: Path) -> tuple[shim.Operation, ...]:
    """In the parent: what a child counted; nothing where it was killed."""
    if not file.exists():
        return ()
    found = tuple(shim.Operation(*fields) for fields in json.loads(file.read_text(encoding="utf-8")))
    file.unlink()
    return found


def digests(folder: Path, patterns: Sequence[str]) -> dict[str, str]:
    """The sha256 of each file, by its path in the folder."""
    files = sorted({file for pattern in patterns for file in folder.glob(pattern)})
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def half_written(folder: Path) -> Iterator[str]:
    """Files under a final name that are not whole."""
    for file in sorted(folder.rglob("*")):
        if not file.is_file() or file.is_relative_to(temporary_of(folder)) or file.name.startswith("."):
            continue
        if (fault := _fault(file)) is not None:
            yield f"{file.relative_to(folder)}: {fault}"


def _fault(file: Path) -> str | None:
    data = file.read_bytes()
    try:
        if file.suffix == ".safetensors":
            return _tensors_fault(data)
        if file.suffix == ".json":
            json.loads(data)
        elif file.suffix == ".html" and not data.rstrip().endswith(b"</html>"):
            return "the page has no end"
        elif file.suffix == ".onnx":
            import onnx

            onnx.load_model_from_string(data)
        elif file.suffix == ".md" and not data.endswith(b"\n"):
            return "the text has no end"
    except Exception as fault:
        return f"{type(fault).__name__}: {fault}"
    return None


def _tensors_fault(data: bytes) -> str | None:
    """Read without torch: the parent of all cases computes nothing."""
    length = int.from_bytes(data[:_HEADER], "little")
    header = json.loads(data[_HEADER : _HEADER + length])
    end = max((fields["data_offsets"][1] for name, fields in header.items() if name != "__metadata__"), default=0)
    whole = _HEADER + length + end
    return None if whole == len(data) else f"{len(data)} bytes instead of {whole}"


def left_over(folder: Path) -> list[str]:
    """Temporary files beside results; a run's lock stays for ever."""
    hidden = (file for file in folder.rglob("*") if file.name.endswith(TEMPORARY) or file.name.startswith("."))
    found = (file for file in hidden if file.name != ".lock" and not file.is_relative_to(temporary_of(folder)))
    return sorted(str(file.relative_to(folder)) for file in found)


def in_tmpdir(folder: Path) -> list[str]:
    """What is left in the case's TMPDIR; onnxruntime keeps a file of its own there."""
    return sorted(file.name for file in temporary_of(folder).glob("*") if file.name != ".ses")
