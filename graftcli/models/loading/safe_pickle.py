"""Read weights files safely: safetensors, and pickles through torch's restricted unpickler.

Only a short list of harmless classes found in real checkpoints is loaded. The first bytes of a file decide its format,
never its name. Before loading, zip checksums are verified, and memory and time are bounded by the size of the file.
"""

import argparse
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy._core.multiarray import _reconstruct, scalar
from torch._weights_only_unpickler import _get_allowed_globals
from torch.serialization import safe_globals

from graftcli.errors import CheckpointError
from graftcli.models.loading.file_bounds import COPY_AGAIN, MAX_DEPTH, MAX_HEADER, damaged
from graftcli.models.loading.pickle_check import check_pickles, globals_in
from graftcli.models.loading.tensor_file import check, is_written
from graftcli.models.loading.zip_archive import check_zip

_NUMBERS = "bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64"
# Paths load as pure paths: no disk access, and Windows paths load on Linux. numpy and pathlib classes are listed under
# the module names of older and newer versions.
_BY_NAME: dict[str, Callable[..., object]] = {
    **{f"{at}._reconstruct": _reconstruct for at in ("numpy.core.multiarray", "numpy._core.multiarray")},
    **{f"{at}.scalar": scalar for at in ("numpy.core.multiarray", "numpy._core.multiarray")},
    **{
        f"{at}.{name}": PurePosixPath for at in ("pathlib", "pathlib._local") for name in ("PosixPath", "PurePosixPath")
    },
    **{
        f"{at}.{name}": PureWindowsPath
        for at in ("pathlib", "pathlib._local")
        for name in ("WindowsPath", "PureWindowsPath")
    },
    **{f"numpy.{name}": getattr(np, name) for name in ("ndarray", "dtype", *_NUMBERS.split())},
    **{f"numpy.dtypes.{name}": getattr(np.dtypes, name) for name in np.dtypes.__all__},
    "argparse.Namespace": argparse.Namespace,
}
_HARMLESS: list[Callable[..., object] | tuple[Callable[..., object], str]] = [
    (value, name) for name, value in _BY_NAME.items()
]

_MAGIC = {
    b"PK\x03\x04": "zip",
    b"\x80": "pickle",
    b"\x1f\x8b": "a gzip archive",
    b"\x89HDF": "an HDF5 file, as Keras writes them",
    b"version https://git-lfs": "a Git LFS pointer to a file that was not downloaded",
    b"<": "a web page or XML, not a checkpoint",
}
_MAX_EXCESS = 1 << 26  # bytes by which a tensor with strides of 0 may exceed its storage
_UNSAFE_LOAD = "If you trust its source, --unsafe-load loads it and runs the code it contains."
FOLDER_FILES = ("model.safetensors", "pytorch_model.bin", "model.pth", "pytorch_model.pth")


def read(path: str | Path, *, unsafe: bool = False) -> Any:
    """Read a weights file onto the CPU: a dict of tensors, or the object that was saved."""
    file = _file(Path(path).expanduser())
    try:
        with file.open("rb") as stream:
            head = stream.read(512)
    except OSError as err:
        raise CheckpointError(f"`{file}` cannot be read: {err.strerror}.", "Check its permissions.") from err
    kind = _kind(head)
    if kind == "tar" and not unsafe:
        message = f"`{file}` is a tar archive: packed files, or a checkpoint from torch before 0.1.10."
        raise CheckpointError(message, f"Extract it and give the weights file inside. {_UNSAFE_LOAD}")
    if kind == "safetensors":
        value: object = _safetensors(file)
    elif kind in ("zip", "pickle", "tar"):
        value = _pickle(file, kind, unsafe)
    else:
        raise CheckpointError(f"`{file}` is {kind}.", "Give a file written by torch.save or safetensors.")
    _check_tensors(file, value)
    return value


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file as hexadecimal digits; the file is read in chunks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _file(path: Path) -> Path:
    """The weights file at a path or in a folder; refuses missing, empty and special files."""
    try:
        if path.is_dir():
            return weights_in(path)
        if not path.exists():
            raise CheckpointError(f"There is no file `{path}`.", "Check the path.")
        if not path.is_file():
            raise CheckpointError(f"`{path}` is a device or a pipe, not a regular file.", "Give a weights file.")
        if path.stat().st_size == 0:
            raise CheckpointError(f"`{path}` is empty.", COPY_AGAIN)
    except (OSError, ValueError) as err:  # an impossible file name, a folder without permission
        raise CheckpointError(f"`{path}` cannot be read: {err}.", "Check the path.") from err
    return path


def weights_in(folder: Path) -> Path:
    """The weights file in a folder, by the file names of timm, Hugging Face and graftcli."""
    file = next((folder / name for name in FOLDER_FILES if (folder / name).is_file()), None)
    if file is None:
        entries = ", ".join(sorted(entry.name for entry in folder.iterdir())[:5]) or "nothing"
        message = f"The folder `{folder}` has no weights file: it holds {entries}."
        raise CheckpointError(message, f"Give the path of the file; known file names are {', '.join(FOLDER_FILES)}.")
    return file


def _kind(head: bytes) -> str:
    """Identify a file by its first bytes."""
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 40:
        return "safetensors"
    if head[257:262] == b"ustar":
        return "tar"
    known = next((kind for magic, kind in _MAGIC.items() if head.lstrip().startswith(magic)), None)
    if known:
        return known
    if all(byte in b"\t\n\r\f" or byte >= 32 for byte in head) and _is_utf8(head):
        return f"a text file that begins with {head[:40].decode('utf-8', 'ignore').splitlines()[0]!r}"
    return f"not a checkpoint: it begins with the bytes {head[:8].hex(' ')}"


def _is_utf8(head: bytes) -> bool:
    try:
        head[:-4].decode("utf-8")  # the last character may be incomplete
    except UnicodeDecodeError:
        return False
    return True


# ---- safetensors ----


def _safetensors(file: Path) -> dict[str, torch.Tensor]:
    _check_header(file)
    if is_written(file):
        check(file)
    try:
        return safetensors.torch.load_file(file)
    except Exception as err:
        raise damaged(file, err) from err


def _check_header(file: Path) -> None:
    """Check that the header fits the file and names every tensor once."""
    with file.open("rb") as stream:
        length, size = int.from_bytes(stream.read(8), "little"), file.stat().st_size - 8
        if length > min(size, MAX_HEADER):
            bound = f"{size:,} are left" if length > size else f"the limit is {MAX_HEADER:,}"
            raise damaged(file, ValueError(f"its header declares {length:,} bytes, but {bound}"))
        text = stream.read(length)
    try:
        json.loads(text, object_pairs_hook=_reject_duplicates)
    except (ValueError, RecursionError) as err:
        raise damaged(file, err) from err


def _reject_duplicates(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        names = [name for name, _ in pairs]
        duplicate = next(name for index, name in enumerate(names) if name in names[:index])
        raise ValueError(f"its header names `{duplicate[:80]}` twice")
    return mapping


# ---- pickles ----


def _pickle(file: Path, kind: str, unsafe: bool) -> object:
    """Load a file written by torch.save, in the zip format or the legacy format."""
    data = check_zip(file) if kind == "zip" else None
    if not unsafe:
        check_pickles(file, data)
    try:
        with file.open("rb") as stream, warnings.catch_warnings(), safe_globals(_HARMLESS):
            warnings.simplefilter("ignore")  # deprecation warnings about old formats
            return torch.load(stream, map_location="cpu", weights_only=not unsafe)
    except Exception as err:  # damaged files raise many types of exception
        if unsafe and isinstance(err, ImportError | AttributeError):
            message = f"`{file}` needs code that is not installed: {err}."
            raise CheckpointError(message, "Make that module importable, or save only the state_dict().") from err
        if not unsafe and (names := sorted(globals_in(file) - _allowed())):
            message = (
                f"`{file}` is a pickle that loads {', '.join(names)}: it holds more than weights and can run any code."
            )
            raise CheckpointError(
                message, f"{_UNSAFE_LOAD} Or save only the weights: torch.save(net.state_dict(), …)."
            ) from err
        raise damaged(file, err) from err


def _allowed() -> set[str]:
    """The names that torch's restricted unpickler may load."""
    return {*_get_allowed_globals(), *_BY_NAME}


# ---- checks after loading ----


def _check_tensors(file: Path, value: object) -> None:
    """Refuse tensors larger than their storage, which would use excessive memory when copied."""
    for name, tensor in _tensors_in(value):
        if tensor.is_nested or tensor.dim() > MAX_DEPTH:
            kind = "a nested tensor" if tensor.is_nested else f"a tensor of {tensor.dim():,} dimensions"
            raise CheckpointError(f"`{name}` in `{file}` is {kind}.", "Save it as a plain tensor.")
        if tensor.layout != torch.strided or tensor.is_meta:
            continue  # skipped here: matching with the network refuses it
        size, stored = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
        if size > stored + _MAX_EXCESS:
            shape = "x".join(map(str, tensor.shape))
            message = f"`{name}` in `{file}` is {shape}, {size:,} bytes, but the file stores {stored:,} bytes of it."
            raise CheckpointError(message, "Save a contiguous copy: tensor.contiguous().")


def _tensors_in(value: object) -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors in nested dicts, lists, tuples and namespaces, each with its key."""
    seen: set[int] = set()
    pending: list[tuple[str, object]] = [("", value)]
    while pending:
        name, current = pending.pop()
        if isinstance(current, torch.Tensor):
            yield name, current
        elif isinstance(current, Mapping | list | tuple | argparse.Namespace) and id(current) not in seen:
            seen.add(id(current))
            entries = vars(current) if isinstance(current, argparse.Namespace) else current
            pairs = entries.items() if isinstance(entries, Mapping) else enumerate(entries)
            pending.extend((key if isinstance(key, str) else "?", child) for key, child in pairs)
