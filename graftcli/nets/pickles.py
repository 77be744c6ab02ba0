"""Files of weights, read safely: safetensors, and pickles only through torch's restricted unpickler.

Nothing that a file names is ever called, but for a short list of harmless classes that real checkpoints hold. What a
file is, its first bytes say, never its name.
"""

import argparse
import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

import numpy as np
import safetensors.torch
import torch
from numpy._core.multiarray import _reconstruct, scalar
from torch._weights_only_unpickler import _get_allowed_globals
from torch.serialization import safe_globals

from graftcli.errors import CheckpointError

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
    if kind == "safetensors":
        return _safetensors(file)
    if kind == "zip":
        _check_zip(file)
    if kind == "tar" and not unsafe:
        found = f"`{file}` is a tar archive: some files packed together, or a checkpoint of torch before 0.1.10."
        raise CheckpointError(found, f"Unpack it and give the file inside. {_WAY_IN}")
    if kind in ("zip", "pickle", "tar"):
        return _pickle(file, unsafe)
    raise CheckpointError(f"`{file}` is {kind}.", "Give a file that torch.save or safetensors wrote.")


_WAY_IN = "If you trust whoever made it, --unsafe-load reads it and lets it run its code."


def _file(path: Path) -> Path:
    """The file itself, or the weights in a folder; a missing or empty one is refused."""
    if path.is_dir():
        return weights_in(path)
    if not path.exists():
        raise CheckpointError(f"There is no file `{path}`.", "Check the path.")
    if path.stat().st_size == 0:
        raise CheckpointError(f"`{path}` is empty.", "Copy or download it again.")
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


def _safetensors(file: Path) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load_file(file)
    except Exception as err:
        raise _damaged(file, err) from err


def _check_zip(file: Path) -> None:
    """A zip archive without torch's own pickle is refused by what it is."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as err:
        raise _damaged(file, err) from err
    if any("/code/" in name for name in names):
        found = f"`{file}` is a TorchScript program, not weights."
        raise CheckpointError(found, "Save its weights: torch.save(torch.jit.load(file).state_dict(), 'weights.pth').")
    if not any(name.endswith("data.pkl") for name in names):
        found = (
            f"`{file}` is a zip archive that torch.save did not write: it holds {', '.join(names[:3]) or 'nothing'}."
        )
        raise CheckpointError(found, "Unpack it and give the file of weights inside.")


def _pickle(file: Path, unsafe: bool) -> Any:
    """The object in a file of torch.save, in its format of today or in that of before 1.6."""
    try:
        with file.open("rb") as stream, warnings.catch_warnings(), safe_globals(_HARMLESS):
            warnings.simplefilter("ignore")  # about old formats, which are no fault of the user's
            return torch.load(stream, map_location="cpu", weights_only=not unsafe)
    except Exception as err:  # damaged files raise whatever the unpickler stumbles over
        if unsafe and isinstance(err, ImportError | AttributeError):
            found = f"`{file}` needs code that is not here: {err}."
            raise CheckpointError(found, "Make that module importable, or save the state_dict() alone.") from err
        if not unsafe and (names := sorted(_globals_in(file) - _get_allowed_globals().keys() - _BY_NAME.keys())):
            found = f"`{file}` is a pickle that loads {', '.join(names)}: more than weights, and able to run any code."
            raise CheckpointError(
                found, f"{_WAY_IN} Or save the weights alone: torch.save(net.state_dict(), …)."
            ) from err
        raise _damaged(file, err) from err


def _globals_in(file: Path) -> set[str]:
    """The names of all functions and classes that the pickles of a file would load; none of them is loaded."""
    found: set[str] = set()
    try:
        with _pickles_of(file) as stream:
            while True:
                found.update(_globals(stream))
    except Exception:  # the end of the pickles: tensors' bytes, or damage
        return found


def _pickles_of(file: Path) -> IO[bytes]:
    if not zipfile.is_zipfile(file):
        return file.open("rb")
    archive = zipfile.ZipFile(file)
    return archive.open(next(name for name in archive.namelist() if name.endswith("data.pkl")))


def _globals(stream: IO[bytes]) -> Iterator[str]:
    """The names that the next pickle of a stream loads: by GLOBAL, or by STACK_GLOBAL from two strings before it."""
    strings: list[str] = []
    for op, argument, _ in pickletools.genops(stream):
        if op.name == "GLOBAL":
            yield str(argument).replace(" ", ".").replace("__builtin__", "builtins")
        elif op.name == "STACK_GLOBAL":
            yield ".".join(strings[-2:])
        elif isinstance(argument, str):
            strings.append(argument)


def _damaged(file: Path, err: Exception) -> CheckpointError:
    reason = str(err).rsplit("WeightsUnpickler error: ", 1)[-1].strip() or type(err).__name__
    first = re.split(r"\n|\. ", reason)[0].rstrip(".")
    return CheckpointError(f"`{file}` is cut short or damaged: {first}.", "Copy or download it again.")
