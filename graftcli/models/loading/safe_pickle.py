"""Files of weights, read safely: safetensors, and pickles only through torch's restricted unpickler.

Nothing that a file names is ever called, but for a short list of harmless classes that real checkpoints hold. The first
bytes of a file decide what it is, never its name.

Before a file is loaded, its checksums are verified where the format has them (zip), and what it would build is bounded:
a small file cannot take much memory or time.
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
from graftcli.models.loading.file_bounds import COPY_AGAIN, DEEPEST, MOST_HEADER, damaged
from graftcli.models.loading.pickle_check import check_pickles, globals_in
from graftcli.models.loading.tensor_file import check, is_written
from graftcli.models.loading.zip_archive import check_zip

_NUMBERS = "bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64"
# Paths come back as pure ones: they touch no disk, and those of Windows are read on Linux. numpy and pathlib have moved
# between versions, so the names are given under which other versions wrote them.
_BY_NAME: dict[str, Callable[..., Any]] = {
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
_HARMLESS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (value, name) for name, value in _BY_NAME.items()
]

_MAGIC = {
    b"PK\x03\x04": "zip",
    b"\x80": "pickle",
    b"\x1f\x8b": "a gzip archive",
    b"\x89HDF": "an HDF5 file, as Keras writes them",
    b"version https://git-lfs": "a Git LFS pointer, which stands for a file that was not downloaded",
    b"<": "a web page or XML, not the file behind it",
}
_SPREAD = 1 << 26  # bytes that a tensor may take beyond what is stored of it: by strides of 0
_WAY_IN = "If you trust whoever made it, --unsafe-load reads it and lets it run its code."
FOLDER_FILES = ("model.safetensors", "pytorch_model.bin", "model.pth", "pytorch_model.pth")


def read(path: str | Path, *, unsafe: bool = False) -> Any:
    """What a file of weights holds: a dict of tensors, or the object that was saved, on the CPU."""
    file = _file(Path(path).expanduser())
    try:
        with file.open("rb") as stream:
            head = stream.read(512)
    except OSError as err:
        raise CheckpointError(f"`{file}` cannot be read: {err.strerror}.", "Check who may read it.") from err
    kind = _kind(head)
    if kind == "tar" and not unsafe:
        found = f"`{file}` is a tar archive: some files packed together, or a checkpoint of torch before 0.1.10."
        raise CheckpointError(found, f"Unpack it and give the file inside. {_WAY_IN}")
    if kind == "safetensors":
        value: Any = _safetensors(file)
    elif kind in ("zip", "pickle", "tar"):
        value = _pickle(file, kind, unsafe)
    else:
        raise CheckpointError(f"`{file}` is {kind}.", "Give a file that torch.save or safetensors wrote.")
    _check_tensors(file, value)
    return value


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal; the file is read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _file(path: Path) -> Path:
    """The file itself, or the weights in a folder; a missing, empty or endless one is refused."""
    try:
        if path.is_dir():
            return weights_in(path)
        if not path.exists():
            raise CheckpointError(f"There is no file `{path}`.", "Check the path.")
        if not path.is_file():
            raise CheckpointError(f"`{path}` is a device or a pipe, not a plain file.", "Give a file of weights.")
        if path.stat().st_size == 0:
            raise CheckpointError(f"`{path}` is empty.", COPY_AGAIN)
    except (OSError, ValueError) as err:  # a name that no file can have, a folder that may not be entered
        raise CheckpointError(f"`{path}` cannot be read: {err}.", "Check the path.") from err
    return path


def weights_in(folder: Path) -> Path:
    """The file of weights in a folder, by the names that timm, Hugging Face and graftcli use."""
    file = next((folder / name for name in FOLDER_FILES if (folder / name).is_file()), None)
    if file is None:
        held = ", ".join(sorted(entry.name for entry in folder.iterdir())[:5]) or "nothing"
        found = f"The folder `{folder}` has no weights under a name that is known: it holds {held}."
        raise CheckpointError(found, f"Give the file itself; known names are {', '.join(FOLDER_FILES)}.")
    return file


def _kind(head: bytes) -> str:
    """What a file is, after its first bytes."""
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 40:
        return "safetensors"
    if head[257:262] == b"ustar":
        return "tar"
    named = next((kind for magic, kind in _MAGIC.items() if head.lstrip().startswith(magic)), None)
    if named:
        return named
    if all(byte in b"\t\n\r\f" or byte >= 32 for byte in head) and _is_utf8(head):
        return f"a text file; it begins with {head[:40].decode('utf-8', 'ignore').splitlines()[0]!r}"
    return f"no checkpoint: it begins with the bytes {head[:8].hex(' ')}"


def _is_utf8(head: bytes) -> bool:
    try:
        head[:-4].decode("utf-8")  # the last character may be cut in two
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
    """The header is as long as the file allows, and names every tensor once; the loader would take the last."""
    with file.open("rb") as stream:
        length, size = int.from_bytes(stream.read(8), "little"), file.stat().st_size - 8
        if length > min(size, MOST_HEADER):
            most = f"{size:,} are left" if length > size else f"{MOST_HEADER:,} is the most that is read"
            raise damaged(file, ValueError(f"its header is said to have {length:,} bytes, and {most}"))
        text = stream.read(length)
    try:
        json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as err:
        raise damaged(file, err) from err


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    held = dict(pairs)
    if len(held) < len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for index, name in enumerate(names) if name in names[:index])
        raise ValueError(f"its header names `{double[:80]}` twice")
    return held


# ---- pickles ----


def _pickle(file: Path, kind: str, unsafe: bool) -> Any:
    """The object in a file of torch.save, in its format of today or in that of before 1.6."""
    data = check_zip(file) if kind == "zip" else None
    if not unsafe:
        check_pickles(file, data)
    try:
        with file.open("rb") as stream, warnings.catch_warnings(), safe_globals(_HARMLESS):
            warnings.simplefilter("ignore")  # about old formats, which are no fault of the user's
            return torch.load(stream, map_location="cpu", weights_only=not unsafe)
    except Exception as err:  # damaged files raise whatever the unpickler stumbles over
        if unsafe and isinstance(err, ImportError | AttributeError):
            found = f"`{file}` needs code that is not here: {err}."
            raise CheckpointError(found, "Make that module importable, or save the state_dict() alone.") from err
        if not unsafe and (names := sorted(globals_in(file) - _allowed())):
            found = f"`{file}` is a pickle that loads {', '.join(names)}: more than weights, and able to run any code."
            raise CheckpointError(
                found, f"{_WAY_IN} Or save the weights alone: torch.save(net.state_dict(), …)."
            ) from err
        raise damaged(file, err) from err


def _allowed() -> set[str]:
    """The names that torch's restricted unpickler loads here."""
    return {*_get_allowed_globals(), *_BY_NAME}


# ---- what was loaded ----


def _check_tensors(file: Path, value: Any) -> None:
    """Every tensor is as large as what is stored of it, so that nothing explodes where one is copied."""
    for name, tensor in _tensors_in(value):
        if tensor.is_nested or tensor.dim() > DEEPEST:
            kind = "a nested tensor" if tensor.is_nested else f"a tensor of {tensor.dim():,} dimensions"
            raise CheckpointError(f"`{name}` in `{file}` is {kind}.", "Save it as a plain tensor.")
        if tensor.layout != torch.strided or tensor.is_meta:
            continue  # the network refuses it by its name
        size, stored = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
        if size > stored + _SPREAD:
            shape = "x".join(map(str, tensor.shape))
            found = f"`{name}` in `{file}` is {shape} numbers, {size:,} bytes, of which the file stores {stored:,}."
            raise CheckpointError(found, "Save it with its values: tensor.contiguous().")


def _tensors_in(value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors in dicts, lists, tuples and namespaces, with the key or position that each lies under."""
    seen: set[int] = set()
    rest: list[tuple[str, Any]] = [("", value)]
    while rest:
        name, held = rest.pop()
        if isinstance(held, torch.Tensor):
            yield name, held
        elif isinstance(held, Mapping | list | tuple | argparse.Namespace) and id(held) not in seen:
            seen.add(id(held))
            entries = vars(held) if isinstance(held, argparse.Namespace) else held
            pairs = entries.items() if isinstance(entries, Mapping) else enumerate(entries)
            rest.extend((key if isinstance(key, str) else "?", inner) for key, inner in pairs)
