"""Atomic file writes: a temporary file is written, read back, compared and renamed.

write_json, write_tensors, write_state  ->  write_bytes  ->  the complete old or the complete new file
read_facts, read_tensors, read_state    <-  a safetensors file whose digest is verified
"""

import errno
import glob
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graftcli.errors import MachineError, UsageError
from graftcli.models.loading.tensor_file import facts_of as read_facts
from graftcli.models.loading.tensor_file import read as read_tensors
from graftcli.models.loading.tensor_file import serialized

__all__ = [
    "TEMPORARY",
    "plain",
    "read_facts",
    "read_state",
    "read_tensors",
    "remove_abandoned",
    "write_bytes",
    "write_json",
    "write_state",
    "write_tensors",
    "writing",
]

TEMPORARY = ".tmp"  # suffix of temporary files
_CHUNK = 2**24  # bytes compared at a time
_STRUCTURE = "structure"  # metadata key of a state's nesting of tensors and numbers
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DENIED = (errno.EACCES, errno.EPERM)
_RESUME = "and run the same command again to resume"


def write_bytes(path: Path, data: bytes, *, follow: bool = False) -> None:
    """Write `data` to `path`; on any failure, including a crash at any moment, the old file stays.

    A symbolic link at `path` is replaced, not followed. With `follow`, for files that the user names, the link is kept
    and its target is replaced.
    """
    with writing(path, len(data)):
        if path.exists() and not path.is_file() and (follow or not path.is_symlink()):
            raise UsageError(
                f"`{path}` is {'a folder' if path.is_dir() else 'not a regular file'}.", "Name another file."
            )
        path = path.resolve() if follow else path.absolute()
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
        try:
            _write_and_sync(temporary, data)
            if not _contains(temporary, data):
                found = f"`{path}` reads back differently than it was written: {_size(len(data))} in `{path.parent}`."
                raise MachineError(
                    found, "The disk or this machine's memory is faulty: choose another disk with --out."
                )
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def remove_abandoned(path: Path) -> None:
    """Remove temporary files of ended processes: those for the file `path`, or all in the folder `path`."""
    pattern = f".*{TEMPORARY}" if path.is_dir() else f".*{glob.escape(path.name)}.*{TEMPORARY}"
    for file in (path if path.is_dir() else path.parent).glob(pattern):
        process = re.search(r"\.(\d+)\.tmp", file.name)
        if process is not None and not _is_alive(int(process[1])):
            with suppress(OSError):
                file.unlink()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # the process of another user, or an invalid pid
        return True
    return True


def _write_and_sync(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _contains(path: Path, data: bytes) -> bool:
    with path.open("rb") as file:
        same = all(file.read(_CHUNK) == data[start : start + _CHUNK] for start in range(0, len(data), _CHUNK))
        return same and not file.read(1)


def _sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename survives a power failure."""
    with suppress(OSError):  # not supported for folders on some network file systems
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def writing(path: Path, needed: int = 0) -> Iterator[None]:
    """Turn an OSError while `needed` bytes are written to `path` into a MachineError."""
    try:
        yield
    except OSError as err:
        raise MachineError(*_refusal(path, needed, err)) from err


def _refusal(path: Path, needed: int, err: OSError) -> tuple[str, str]:
    """The message and the fix for a failed write."""
    found, alternative = f"`{path}` cannot be written: {err.strerror or err}", "choose another disk with --out"
    if err.errno in _FULL:
        space = f"{_size(needed)} needed, {_free(path)} free"
        limit = {errno.EDQUOT: "; your quota is used up", errno.EFBIG: "; the file size limit is exceeded (ulimit -f)"}
        return f"{found} ({space}{limit.get(err.errno or 0, '')}).", f"Free some space {_RESUME}. Or {alternative}."
    if err.errno == errno.EROFS:
        return f"{found}.", f"Mount it for writing {_RESUME}. Or {alternative}."
    if err.errno in _DENIED:
        return (
            f"{found} for `{path.parent}`.",
            f"Change its permissions {_RESUME}. Or choose another folder with --out.",
        )
    if err.errno in (errno.ENOTDIR, errno.EEXIST):
        file = next((parent for parent in path.absolute().parents if parent.is_file()), path)
        return f"`{path}` cannot be written: `{file}` is a file, not a folder.", "Choose another path with --out."
    return f"{found}.", "Choose another path with --out."


def _free(path: Path) -> str:
    """The free space on the disk of the nearest existing folder."""
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    return _size(shutil.disk_usage(folder).free)


def _size(count: int) -> str:
    power = min(3, int(math.log10(max(count, 1)) / 3))
    return f"{count / 1000**power:,.{1 if power else 0}f} {('bytes', 'kB', 'MB', 'GB')[power]}"


# -- JSON ---------------------------------------------------------------------------------------------------------


def write_json(path: Path, document: object) -> None:
    """Write a document as JSON; numbers that are not finite become null."""
    text = json.dumps(plain(document), sort_keys=True, indent=2, allow_nan=False)
    write_bytes(path, f"{text}\n".encode())


def plain(value: object) -> Any:
    """The value as JSON returns it: string keys, lists for tuples, None for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# -- tensors ------------------------------------------------------------------------------------------------------


def write_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, object]) -> None:
    """Write a safetensors file with the facts and a digest in its metadata."""
    write_bytes(path, serialized(tensors, facts))


# -- states -------------------------------------------------------------------------------------------------------


def write_state(path: Path, state: Mapping[str, object], facts: Mapping[str, object]) -> None:
    """Write nested dicts, lists, tuples, tensors and numbers; read_state restores every bit, key and stride."""
    tensors: dict[str, Tensor] = {}
    structure = _flattened(state, tensors)
    write_tensors(path, tensors, {**facts, _STRUCTURE: structure})


def read_state(path: Path) -> dict[str, Any]:
    """Read a state onto the CPU."""
    tensors, facts = read_tensors(path)
    state: dict[str, Any] = _nested(facts[_STRUCTURE], tensors)
    return state


def _flattened(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The value with each tensor replaced by its name; dicts become lists of pairs, because JSON keys are strings."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value
        # strides decide which kernels run and how they round: channels-last must stay channels-last
        return {"tensor": name, "strides": torch.empty_like(value, device="meta").stride()}
    if isinstance(value, Mapping):
        return {"dict": [[key, _flattened(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"tuple" if isinstance(value, tuple) else "list": [_flattened(item, tensors) for item in value]}
    return value


def _nested(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        saved = tensors[value["tensor"]]
        return torch.empty_strided(saved.shape, value["strides"], dtype=saved.dtype).copy_(saved)
    if "dict" in value:
        return {key: _nested(item, tensors) for key, item in value["dict"]}
    items = [_nested(item, tensors) for item in next(iter(value.values()))]
    return tuple(items) if "tuple" in value else items
