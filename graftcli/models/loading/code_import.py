"""A user's Python file or package, imported: `find(where, factory)` gives what is called in it.

A file is imported under a private name, its folder importable meanwhile, and its siblings are forgotten again: two
files called `model.py` beside two different `layers.py` are two networks. Code that a document names comes through a
`Gate`, which sees the bytes of every file before they run; what was compiled before, in `__pycache__`, is never used.
"""

import hashlib
import importlib
import importlib.abc
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from torch import nn

from graftcli.errors import GraftError, PairError
from graftcli.models.loading.plain_file import read_regular
from graftcli.models.loading.trust import IMPORT, Gate, refusal

_IMPORT_FIX = "Correct it until Python imports it; a file inside a package is given as package.module:factory."
_PRIVATE = "graftcli_user"
_OWN = {("graftcli.demo.networks", "teacher"), ("graftcli.demo.networks", "student")}  # code of graftcli itself
_NAMED: set[tuple[str, str, str]] = set()  # file or package, sha256, factory: what the user named in this process


def is_file(where: str) -> bool:
    return where.endswith(".py")


def find(where: str, factory: str, gate: Gate | None = None) -> Callable[..., Any]:
    """The factory; where there is none of that name, what could be meant."""
    if gate is None:
        _NAMED.add(_named(where, factory))
    source = _import_file(Path(where), factory, gate) if is_file(where) else _import_package(where, factory, gate)
    make: Callable[..., Any] | None = getattr(source, factory, None)
    if callable(make) and not isinstance(make, nn.Module):
        return make
    found = f"`{where}` has no `{factory}`" if make is None else f"`{factory}` in `{where}` is a {type(make).__name__}"
    own = {name: value for name, value in vars(source).items() if getattr(value, "__module__", None) == source.__name__}
    here = [name for name, value in own.items() if isinstance(value, FunctionType | type)]
    raise PairError(f"{found} that makes a network.", f"It has {', '.join(here) or 'no function or class of its own'}.")


def gate_for(where: str, factory: str, gate: Gate | None) -> Gate | None:
    """The gate, or none where the user has named this very file and factory: then it may run from a document too."""
    return None if gate is None or _named(where, factory) in _NAMED else gate


def _named(where: str, factory: str) -> tuple[str, str, str]:
    return (str(Path(where).resolve()), sha256_of(Path(where)), factory) if is_file(where) else (where, "", factory)


def sha256_of(file: Path) -> str:
    return hashlib.sha256(_read(file)).hexdigest()


def _read(file: Path) -> bytes:
    try:
        return read_regular(file)
    except OSError as err:
        raise PairError(
            f"`{file}` cannot be read: {err.strerror or err}.", "Check the path of the network's file."
        ) from err


def _import_file(file: Path, factory: str, gate: Gate | None) -> ModuleType:
    """The module of a file, imported once for as long as the file stays the same."""
    data = _read(file)
    if gate is not None:
        gate.admit(file, data, factory)
    source = f"{_PRIVATE}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}_{hashlib.sha256(data).hexdigest()[:8]}"
    name = f"{source}_gated" if gate is not None else source
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None  # the name ends in .py
        sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            with running(str(file), "it was imported", _IMPORT_FIX), importable(str(file), gate):
                exec(compile(data, file, "exec"), vars(sys.modules[name]))
        except GraftError:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _import_package(name: str, factory: str, gate: Gate | None) -> ModuleType:
    """The module of a dotted name; packages in the working directory count, as under `python -m`."""
    if gate is not None and (name, factory) not in _OWN:
        fix = f"Name it yourself in its place: {name}:{factory}, with the file of its weights as the checkpoint."
        raise refusal(gate.document, f"`{factory}` of the package `{name}`", fix)
    with running(name, "it was imported", _IMPORT_FIX), importable(name):
        return importlib.import_module(name)


@contextmanager
def importable(where: str, gate: Gate | None = None) -> Iterator[None]:
    """The folder of a file, or the working directory, is searched first; a file's siblings are forgotten again."""
    folder, known = str(Path(where).parent if is_file(where) else Path.cwd()), set(sys.modules)
    importlib.invalidate_caches()
    with _searched(folder) if gate is None else _gated(Path(folder), gate):
        try:
            yield
        finally:
            for name in set(sys.modules) - known if is_file(where) else ():
                at = str(getattr(sys.modules[name], "__file__", None) or "")
                if at.startswith(folder) and _PRIVATE not in name:
                    del sys.modules[name]


@contextmanager
def _searched(folder: str) -> Iterator[None]:
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


@contextmanager
def _gated(folder: Path, gate: Gate) -> Iterator[None]:
    """Imports go through the gate; what the code adds to sys.path is removed afterwards: it imports nothing later."""
    before, finder = list(sys.path), _Gated(folder, gate)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        sys.path[:] = before


class _Gated(importlib.abc.MetaPathFinder):
    """Finds modules beside a file and installed ones; the gate sees all but those that are installed."""

    def __init__(self, folder: Path, gate: Gate) -> None:
        self.folder, self.gate = folder, gate
        here = {"", ".", str(Path.cwd()), str(folder)}
        self.installed = [place for place in sys.path if place not in here]  # before the code can add to it
        self.packages: set[str] = set()  # that came through the gate: so do the modules in them

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name in sys.builtin_module_names:
            return None
        if path is not None:
            inside = name.rpartition(".")[0] in self.packages
            return self._admitted(name, PathFinder.find_spec(name, path)) if inside else None
        if (beside := PathFinder.find_spec(name, [str(self.folder)])) is not None:
            return self._admitted(name, beside)
        known = PathFinder.find_spec(name, self.installed)
        return known if known is not None else self._admitted(name, PathFinder.find_spec(name, sys.path))

    def _admitted(self, name: str, spec: ModuleSpec | None) -> ModuleSpec | None:
        """The spec of a module whose bytes the gate has seen; they are what runs."""
        if spec is None:
            return None
        if spec.submodule_search_locations is not None:
            self.packages.add(name)
        if spec.origin is None:  # a folder without code
            return spec
        file = Path(spec.origin)
        if file.suffix != ".py":
            raise refusal(self.gate.document, f"the compiled module `{file}`", "Name the network yourself instead.")
        data = _read(file)
        self.gate.admit(file, data, IMPORT)
        spec.loader = _Loader(file, data)
        return spec


class _Loader(importlib.abc.InspectLoader):
    """Runs the bytes that the gate has seen, whatever lies on the disk by now."""

    def __init__(self, file: Path, data: bytes) -> None:
        self.file, self.data = file, data

    def is_package(self, fullname: str) -> bool:
        return self.file.name == "__init__.py"

    def get_source(self, fullname: str) -> str:
        return importlib.util.decode_source(self.data)

    def get_code(self, fullname: str) -> CodeType:
        code: CodeType = compile(self.data, str(self.file), "exec", dont_inherit=True)
        return code


@contextmanager
def running(where: str, what: str, fix: str) -> Iterator[None]:
    """A user's code prints to stderr, and whatever stops it becomes one PairError that names the line."""
    try:
        with redirect_stdout(sys.stderr):
            yield
    except GraftError:
        raise
    except (Exception, SystemExit) as err:
        lines = [frame.lineno for frame in traceback.extract_tb(err.__traceback__) if frame.filename == where]
        line = f" at line {lines[-1]}" if lines else ""
        found = f"`{where}` stopped{line} while {what}: {type(err).__name__}: {err}."
        raise PairError(found, fix) from err
