"""Files of weights, read safely: safetensors, and pickles only through torch's restricted unpickler.

Nothing that a file names is ever called, but for a short list of harmless classes that real checkpoints hold. The first
bytes of a file decide what it is, never its name.

Before a file is loaded, its checksums are verified where the format has them (zip), and what it would build is bounded:
a small file cannot take much memory or time.
"""

import argparse
import gc
import hashlib
import json
import pickletools
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, NoReturn

import numpy as np
import safetensors.torch
import torch
from numpy._core.multiarray import _reconstruct, scalar
from torch._weights_only_unpickler import _get_allowed_globals
from torch.serialization import MAGIC_NUMBER, safe_globals

from graftcli.errors import CheckpointError
from graftcli.nets.tensor_file import check, is_written

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
_MOST_HEADER = 32 << 20  # bytes of a list of tensors: some 200,000 of them
_MOST_PICKLE = 128 << 20  # bytes of everything in a checkpoint that is no tensor
_MOST_STEPS = 2_000_000  # instructions of a pickle; a network of 10,000 tensors with its optimiser has 1,400,000
_MOST_WORK = 5_000_000  # values that are hashed or copied while a pickle is loaded
_DEEPEST = 100  # containers in containers, and dimensions of a tensor
_MOST_SHRUNK = 10  # how many times smaller than its members an archive may be
_PIECE = 1 << 20
_SPREAD = 1 << 26  # bytes that a tensor may take beyond what is stored of it: by strides of 0

_PUTS, _GETS = ("BINPUT", "LONG_BINPUT"), ("BINGET", "LONG_BINGET")
# all atoms that torch's restricted unpickler knows
_ATOMS = frozenset({"NONE", "NEWFALSE", "NEWTRUE", "BININT", "BININT1", "BININT2", "BINFLOAT", "LONG1"})
_ATOMS |= {"BINUNICODE", "SHORT_BINSTRING"}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "TUPLE": None}
_REBUILDS = (
    *("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter"),
    *("_rebuild_parameter_with_state", "_rebuild_qtensor", "_rebuild_sparse_tensor", "_rebuild_meta_tensor_no_storage"),
)
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


_AGAIN = "Copy or download it again."
_WAY_IN = "If you trust whoever made it, --unsafe-load reads it and lets it run its code."


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
            raise CheckpointError(f"`{path}` is empty.", "Copy or download it again.")
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
        raise _damaged(file, err) from err


def _check_header(file: Path) -> None:
    """The header is as long as the file allows, and names every tensor once; the loader would take the last."""
    with file.open("rb") as stream:
        length, size = int.from_bytes(stream.read(8), "little"), file.stat().st_size - 8
        if length > min(size, _MOST_HEADER):
            most = f"{size:,} are left" if length > size else f"{_MOST_HEADER:,} is the most that is read"
            raise _damaged(file, ValueError(f"its header is said to have {length:,} bytes, and {most}"))
        text = stream.read(length)
    try:
        json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as err:
        raise _damaged(file, err) from err


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    held = dict(pairs)
    if len(held) < len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for index, name in enumerate(names) if name in names[:index])
        raise ValueError(f"its header names `{double[:80]}` twice")
    return held


# ---- zip archives ----


def _check_zip(file: Path) -> bytes:
    """The archive is torch's, and every member is whole by its checksum; the bytes of its pickle.

    torch itself verifies no checksum.
    """
    try:
        _check_directory(file)
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            _check_torch(file, names)
            _check_sizes(file, members, bool(archive.comment))
            for member in members:
                _check_member(file, archive, member)
            return archive.read(f"{names[0].partition('/')[0]}/data.pkl")
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, KeyError, ValueError, EOFError) as err:
        raise _damaged(file, err) from err


def _check_directory(file: Path) -> None:
    """The list of members is of a size that can be read; only its declared size is looked at."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        stream.seek(max(0, size - 98))  # the three records at the end of an archive without a comment
        end = stream.read()
    declared = struct.unpack_from("<L", end, len(end) - 10)[0] if end[-22:-18] == b"PK\5\6" else 0
    if end[:4] == b"PK\6\6" and declared == 0xFFFFFFFF:
        declared = struct.unpack_from("<Q", end, 40)[0]
    if declared > min(size, _MOST_HEADER):
        raise zipfile.BadZipFile(f"its list of members is said to have {declared:,} bytes")


def _check_torch(file: Path, names: Sequence[str]) -> None:
    """A zip archive without torch's own pickle is refused by what it is."""
    if any("/code/" in name for name in names):
        found = f"`{file}` is a TorchScript program, not weights."
        raise CheckpointError(found, "Save its weights: torch.save(torch.jit.load(file).state_dict(), 'weights.pth').")
    if not any(name.endswith("data.pkl") for name in names):
        found = (
            f"`{file}` is a zip archive that torch.save did not write: it holds {', '.join(names[:3]) or 'nothing'}."
        )
        raise CheckpointError(found, "Unpack it and give the file of weights inside.")


def _check_sizes(file: Path, members: Sequence[zipfile.ZipInfo], comment: bool) -> None:
    """The members lie beside each other in the file, each under one name, and are not much larger than it."""
    size = file.stat().st_size
    stored, whole = sum(one.compress_size for one in members), sum(one.file_size for one in members)
    if whole > max(_MOST_SHRUNK * size, _MOST_PICKLE):
        found = f"`{file}` has {size:,} bytes, and its members {whole:,} when they are unpacked."
        raise CheckpointError(found, "No weights compress that much: give the file that torch.save wrote.")
    names = [one.filename for one in members]
    if comment or stored > size or min(one.header_offset for one in members) != 0:
        raise zipfile.BadZipFile("its members overlap, or other data lies beside them")
    if len({name.lower() for name in names}) < len(names) or any(one.orig_filename != one.filename for one in members):
        raise zipfile.BadZipFile("two of its members have one name")
    for one in members:
        if one.compress_type == zipfile.ZIP_STORED and one.compress_size != one.file_size:
            raise zipfile.BadZipFile(
                f"its member `{one.filename}` has {one.compress_size:,} of {one.file_size:,} bytes"
            )
        if one.filename.endswith("data.pkl") and one.file_size > _MOST_PICKLE:
            _too_much(file, f"its `{one.filename}` has {one.file_size:,} bytes without any tensor")


def _check_member(file: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    try:
        with archive.open(member) as stream:
            while stream.read(_PIECE):
                pass
    except (zipfile.BadZipFile, zlib.error, EOFError) as err:
        found = f"`{file}` is damaged: the bytes of its member `{member.filename}` do not match their checksum."
        raise CheckpointError(found, _AGAIN) from err


# ---- pickles ----


def _pickle(file: Path, kind: str, unsafe: bool) -> Any:
    """The object in a file of torch.save, in its format of today or in that of before 1.6."""
    data = _check_zip(file) if kind == "zip" else None
    if not unsafe:
        _check_pickles(file, data)
    try:
        with file.open("rb") as stream, warnings.catch_warnings(), safe_globals(_HARMLESS):
            warnings.simplefilter("ignore")  # about old formats, which are no fault of the user's
            return torch.load(stream, map_location="cpu", weights_only=not unsafe)
    except Exception as err:  # damaged files raise whatever the unpickler stumbles over
        if unsafe and isinstance(err, ImportError | AttributeError):
            found = f"`{file}` needs code that is not here: {err}."
            raise CheckpointError(found, "Make that module importable, or save the state_dict() alone.") from err
        if not unsafe and (names := sorted(_globals_in(file) - _allowed())):
            found = f"`{file}` is a pickle that loads {', '.join(names)}: more than weights, and able to run any code."
            raise CheckpointError(
                found, f"{_WAY_IN} Or save the weights alone: torch.save(net.state_dict(), …)."
            ) from err
        raise _damaged(file, err) from err


def _allowed() -> set[str]:
    """The names that torch's restricted unpickler loads here."""
    return {*_get_allowed_globals(), *_BY_NAME}


class _Made:
    """A container or an object of a pickle that is only imagined: how deep it is, and how much there is in it."""

    __slots__ = ("depth", "items", "weight")

    def __init__(self, held: Sequence[Any] = ()) -> None:
        self.depth, self.weight = 0, 1
        self.items = tuple(held[:8])
        self.hold(held)

    def hold(self, more: Sequence[Any]) -> None:
        for value in more:
            self.weight = min(self.weight + _weight(value), _MOST_WORK + 1)
            if isinstance(value, _Made) and value.depth >= self.depth:
                self.depth = value.depth + 1
        if self.depth > _DEEPEST:
            raise _TooMuch(f"its containers are nested more than {_DEEPEST:,} deep")


class _Named(str):
    """A function or class that a pickle names."""


class _TooMuch(Exception):
    """What a pickle would do that no checkpoint needs."""


def _weight(value: Any) -> int:
    """How much work it is to hash or copy a value."""
    if isinstance(value, _Made):
        return value.weight
    return 1 + len(value) // 64 if isinstance(value, str | bytes) else 1


def _check_pickles(file: Path, data: bytes | None) -> None:
    """What the pickles of a file would build is bounded; nothing is built, and nothing that they name is loaded.

    Without `data` they are the five of an old file of torch.save: a number, a version, the machine, the value, and the
    names of the tensors' data. Memory that no data is read into would hold what happened to lie there.
    """
    machine = _Machine()
    collects = gc.isenabled()
    gc.disable()  # it would look through millions of values again and again
    try:
        if data is not None:
            machine.run(pickletools.genops(data))
            return
        with file.open("rb") as stream:
            limited: Any = _Limited(stream)
            if machine.run(pickletools.genops(limited)) != MAGIC_NUMBER:
                return
            for _ in range(3):
                machine.run(pickletools.genops(limited))
            filled = {str(argument) for _, argument, _ in pickletools.genops(limited)}
    except _TooMuch as much:
        _too_much(file, str(much))
    except _NotTorch:
        return  # torch refuses it, at that place and by its name
    except Exception as err:
        raise _damaged(file, err) from err
    finally:
        if collects:
            gc.enable()
    if machine.storages - filled:
        raise _damaged(file, ValueError("it names tensors whose data it does not list"))


class _NotTorch(Exception):
    """An instruction that torch's restricted unpickler does not have."""


class _Limited:
    """A stream of which at most `_MOST_PICKLE` bytes are read, and never more at once than there are."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.left = stream, _MOST_PICKLE

    def read(self, count: int) -> bytes:
        return self._counted(self.stream.read(min(count, self.left)), count)

    def readline(self) -> bytes:
        return self._counted(self.stream.readline(self.left + 1), 0)

    def _counted(self, data: bytes, wanted: int) -> bytes:
        self.left -= len(data)
        if self.left < 0 or (len(data) < wanted and not self.left):
            raise _TooMuch(f"it has more than {_MOST_PICKLE:,} bytes before any tensor")
        return data


class _Machine:
    """torch's restricted unpickler, instruction by instruction, on imagined values."""

    def __init__(self) -> None:
        self.steps = self.work = 0
        self.storages: set[str] = set()  # the keys of all tensors' data

    def run(self, steps: Iterator[tuple[Any, Any, Any]]) -> Any:
        """The imagined value of one pickle."""
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        memo: dict[int, Any] = {}
        for op, argument, _ in steps:
            self.steps += 1
            if self.steps > _MOST_STEPS:
                raise _TooMuch(f"its pickle has more than {_MOST_STEPS:,} instructions")
            name = op.name
            if name in _PUTS:
                memo[argument] = self.stack[-1]
            elif name in _GETS:
                self.stack.append(memo[argument])
            elif name in _ATOMS:
                self.stack.append(argument)
            elif name in _TUPLES:
                self._tuple(_TUPLES[name])
            elif name == "GLOBAL":
                self.stack.append(_Named(argument.replace(" ", ".").replace("__builtin__", "builtins")))
            elif name == "STOP":
                return self.stack.pop()
            elif name != "PROTO":
                getattr(self, f"_{name.lower()}", self._unknown)()
        raise EOFError("its pickle has no end")

    def _unknown(self) -> NoReturn:
        raise _NotTorch

    def _marked(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def _did(self, weight: int) -> None:
        self.work += weight
        if self.work > _MOST_WORK:
            raise _TooMuch("its pickle copies or compares its own values far more often than a checkpoint does")

    def _mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def _tuple(self, count: int | None = None) -> None:
        items = self._marked() if count is None else [self.stack.pop() for _ in range(count)][::-1]
        self.stack.append(_Made(items))

    def _empty_list(self) -> None:
        self.stack.append(_Made())

    _empty_dict = _empty_set = _empty_list

    def _append(self) -> None:
        item = self.stack.pop()
        self._holder().hold([item])

    def _appends(self) -> None:
        items = self._marked()
        self._holder().hold(items)

    def _setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._did(_weight(key))
        self._holder().hold((key, value))

    def _setitems(self) -> None:
        items = self._marked()
        for key in items[::2]:
            self._did(_weight(key))
        self._holder().hold(items)

    def _holder(self) -> _Made:
        if not isinstance(self.stack[-1], _Made):
            raise _NotTorch
        return self.stack[-1]

    def _binpersid(self) -> None:
        given = self.stack.pop()
        if isinstance(given, _Made) and len(given.items) > 2:
            self.storages.add(str(given.items[2]))
        self.stack.append(_Made())

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack.append(self._called(self.stack.pop(), arguments))

    _newobj = _reduce

    def _build(self) -> None:
        self._did(_weight(self.stack.pop()))

    def _called(self, function: Any, arguments: Any) -> _Made:
        if not isinstance(function, _Named) or not isinstance(arguments, _Made):
            raise _NotTorch
        self._did(_weight(arguments))
        items = arguments.items
        if function == "builtins.bytearray" and items and isinstance(items[0], int):
            self._did(abs(items[0]) // 64)
        if not _is_harmless(function, items):
            raise _TooMuch(f"its pickle calls {function} in a way that no checkpoint needs")
        return _Made([arguments])


def _is_harmless(function: str, items: tuple[Any, ...]) -> bool:
    """Whether a call cannot take more memory or time than its arguments; what torch does not load is left to it."""
    home, _, name = function.rpartition(".")
    if home.startswith("numpy"):
        return _is_harmless_array(home, name, items)
    if function == "_codecs.encode":
        return len(items) == 1 or items[1] in ("latin1", "utf-8")
    if name == "_rebuild_from_type_v2":
        return isinstance(items[0], _Named) and items[0].rpartition(".")[2] in _REBUILDS
    if name.endswith(("Tensor", "Storage")):
        return not items
    return home != "torch._utils" or name in _REBUILDS


def _is_harmless_array(home: str, name: str, items: tuple[Any, ...]) -> bool:
    if name == "_reconstruct":
        return len(items) > 1 and isinstance(items[1], _Made) and items[1].items == (0,)
    if name == "scalar":
        return len(items) == 2
    return home == "numpy.dtypes" or (name == "dtype" and isinstance(items[0], str) and len(items[0]) < 64)


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


# ---- what was loaded ----


def _check_tensors(file: Path, value: Any) -> None:
    """Every tensor is as large as what is stored of it, so that nothing explodes where one is copied."""
    for name, tensor in _tensors_in(value):
        if tensor.is_nested or tensor.dim() > _DEEPEST:
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


# ---- refusals ----


def _too_much(file: Path, what: str) -> NoReturn:
    found = f"`{file}` is refused: {what}."
    raise CheckpointError(found, "Save the weights alone: torch.save(net.state_dict(), …).")


def _damaged(file: Path, err: Exception) -> CheckpointError:
    reason = str(err).rsplit("WeightsUnpickler error: ", 1)[-1].strip() or type(err).__name__
    first = re.split(r"\n|\. ", reason)[0].rstrip(".")[:300]
    return CheckpointError(f"`{file}` is cut short or damaged: {first}.", _AGAIN)
