"""Files that are whole under their final names: written beside, read back, compared, then renamed into place.

write_json, write_tensors, write_state  ->  write_bytes  ->  a file that is the old one or the new one, never less
read_facts, read_tensors, read_state    <-  a safetensors file whose digest is checked
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

TEMPORARY = ".tmp"  # how the name ends under which a file is written first
_PIECE = 2**24  # bytes compared at once
_STRUCTURE = "structure"  # where the metadata of a state says how its tensors and numbers are nested
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CLOSED = (errno.EACCES, errno.EPERM)
_AGAIN = "and run the same command again: it goes on from the last good state"


def write_bytes(path: Path, data: bytes, *, follow: bool = False) -> None:
    """`path` holds `data`; whatever keeps it from that, a crash at any moment included, leaves it as it was.

    A link in its place is replaced, and what it leads to stays as it was; with `follow` the link stays, as a user wants
    it of a file that they name.
    """
    with writing(path, len(data)):
        if path.exists() and not path.is_file() and (follow or not path.is_symlink()):
            raise UsageError(f"`{path}` is {'a folder' if path.is_dir() else 'no plain file'}.", "Name another file.")
        path = path.resolve() if follow else path.absolute()
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path)
        beside = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
        try:
            _write_through(beside, data)
            if not _holds(beside, data):
                found = (
                    f"`{path}` reads back as something else than was written: {_size(len(data))} on `{path.parent}`."
                )
                raise MachineError(
                    found, "Its disk or this machine's memory is broken: choose another disk with --out."
                )
            beside.replace(path)
        except BaseException:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            raise
        _keep_names(path.parent)


def remove_abandoned(path: Path) -> None:
    """Remove what processes that are gone were about to rename into `path`, or into any file of a folder."""
    pattern = f".*{TEMPORARY}" if path.is_dir() else f".*{glob.escape(path.name)}.*{TEMPORARY}"
    for file in (path if path.is_dir() else path.parent).glob(pattern):
        process = re.search(r"\.(\d+)(\.check)?\.tmp", file.name)
        if process is not None and not _is_alive(int(process[1])):
            with suppress(OSError):
                file.unlink()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's, or no number of a process
        return True
    return True


def _write_through(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _holds(path: Path, data: bytes) -> bool:
    with path.open("rb") as file:
        same = all(file.read(_PIECE) == data[start : start + _PIECE] for start in range(0, len(data), _PIECE))
        return same and not file.read(1)


def _keep_names(folder: Path) -> None:
    """The names in a folder survive a power failure too."""
    with suppress(OSError):  # some network disks do not know it for folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def writing(path: Path, needed: int = 0) -> Iterator[None]:
    """What keeps the machine from writing `needed` bytes to `path` becomes one MachineError."""
    try:
        yield
    except OSError as err:
        raise MachineError(*_refusal(path, needed, err)) from err


def _refusal(path: Path, needed: int, err: OSError) -> tuple[str, str]:
    """What was found, what to do."""
    found, elsewhere = f"`{path}` cannot be written: {err.strerror or err}", "choose another disk with --out"
    if err.errno in _FULL:
        room = f"{_size(needed)} are needed, {_free(path)} are free"
        limit = {errno.EDQUOT: "; your quota is used up", errno.EFBIG: "; files may not grow so large here (ulimit -f)"}
        return f"{found} ({room}{limit.get(err.errno or 0, '')}).", f"Free some space {_AGAIN}. Or {elsewhere}."
    if err.errno == errno.EROFS:
        return f"{found}.", f"Mount it for writing {_AGAIN}. Or {elsewhere}."
    if err.errno in _CLOSED:
        return f"{found} to `{path.parent}`.", f"Change its permissions {_AGAIN}. Or choose another place with --out."
    if err.errno in (errno.ENOTDIR, errno.EEXIST):
        above = next((parent for parent in path.absolute().parents if parent.is_file()), path)
        return f"`{path}` cannot be written: `{above}` is a file, not a folder.", "Choose another place with --out."
    return f"{found}.", "Choose another place with --out."


def _free(path: Path) -> str:
    """How much room is left on the disk of the nearest folder that exists."""
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    return _size(shutil.disk_usage(folder).free)


def _size(count: int) -> str:
    power = min(3, int(math.log10(max(count, 1)) / 3))
    return f"{count / 1000**power:,.{1 if power else 0}f} {('bytes', 'kB', 'MB', 'GB')[power]}"


# -- JSON ---------------------------------------------------------------------------------------------------------


def write_json(path: Path, document: Any) -> None:
    text = json.dumps(plain(document), sort_keys=True, indent=2, allow_nan=False)
    write_bytes(path, f"{text}\n".encode())


def plain(value: Any) -> Any:
    """The value as reading it back from JSON gives it; JSON knows no number that is not finite, so that is null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# -- tensors ------------------------------------------------------------------------------------------------------


def write_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """A safetensors file with the facts and a digest in its metadata."""
    write_bytes(path, serialized(tensors, facts))


# -- states -------------------------------------------------------------------------------------------------------


def write_state(path: Path, state: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """A nest of dicts, lists, tuples, tensors and numbers: read_state gives back each bit, key and stride of it."""
    tensors: dict[str, Tensor] = {}
    structure = _flattened(state, tensors)
    write_tensors(path, tensors, {**facts, _STRUCTURE: structure})


def read_state(path: Path) -> dict[str, Any]:
    """On the CPU."""
    tensors, facts = read_tensors(path)
    state: dict[str, Any] = _nested(facts[_STRUCTURE], tensors)
    return state


def _flattened(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The value with a name in each tensor's place; keys stand beside their values, for JSON has keys of text alone."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value
        # kernels and their roundings go by strides: channels-last has to come back as channels-last
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
