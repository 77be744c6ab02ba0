"""Import a user's Python file or package and find the factory in it.

A file is imported under a private name with its folder on the import path; modules next to it are removed from
`sys.modules` afterwards, so two `model.py` files with different `layers.py` do not collide. Code that a document names
passes a `Gate`, which checks the bytes of every file before they run; `__pycache__` is never used.
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

from torch import nn

from graftcli.errors import GraftError, PairError
from graftcli.models.loading.plain_file import read_regular
from graftcli.models.loading.trust import IMPORT, Gate, refusal

_IMPORT_FIX = "Fix the import error; name a file inside a package as package.module:factory."
_PRIVATE = "graftcli_user"
_BUILT_IN = {("graftcli.demo.networks", "teacher"), ("graftcli.demo.networks", "student")}  # shipped with graftcli
_NAMED_BY_USER: set[tuple[str, str, str]] = set()  # (file or package, sha256, factory) in this process


def is_file(where: str) -> bool:
    """Whether the code lies in a file, not in a package."""
    return where.endswith(".py")


def find(where: str, factory: str, gate: Gate | None = None) -> Callable[..., object]:
    """Import the factory; an unknown name raises with the factories that exist."""
    if gate is None:
        _NAMED_BY_USER.add(_named_key(where, factory))
    module = _import_file(Path(where), factory, gate) if is_file(where) else _import_package(where, factory, gate)
    attribute: object = getattr(module, factory, None)
    if callable(attribute) and not isinstance(attribute, nn.Module):
        return attribute
    problem = (
        f"`{where}` has no `{factory}`"
        if attribute is None
        else f"`{factory}` in `{where}` is a {type(attribute).__name__}"
    )
    defined = {
        name: value for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__
    }
    factories = [name for name, value in defined.items() if isinstance(value, FunctionType | type)]
    raise PairError(
        f"{problem}; a function or class that builds a network is needed.",
        f"It defines {', '.join(factories) or 'no function or class'}.",
    )


def gate_for(where: str, factory: str, gate: Gate | None) -> Gate | None:
    """The gate, or None if the user named this exact file and factory in this process."""
    return None if gate is None or _named_key(where, factory) in _NAMED_BY_USER else gate


def _named_key(where: str, factory: str) -> tuple[str, str, str]:
    return (str(Path(where).resolve()), sha256_of(Path(where)), factory) if is_file(where) else (where, "", factory)


def sha256_of(file: Path) -> str:
    """The digest of the code, which is stored in the origin of its network."""
    return hashlib.sha256(_read(file)).hexdigest()


def _read(file: Path) -> bytes:
    try:
        return read_regular(file)
    except OSError as err:
        raise PairError(f"`{file}` cannot be read: {err.strerror or err}.", "Check the path.") from err


def _import_file(file: Path, factory: str, gate: Gate | None) -> ModuleType:
    """Import a file; an unchanged file is imported once."""
    data = _read(file)
    if gate is not None:
        gate.admit(file, data, factory)
    private_name = (
        f"{_PRIVATE}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}_{hashlib.sha256(data).hexdigest()[:8]}"
    )
    module_name = f"{private_name}_gated" if gate is not None else private_name
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, file)
        assert spec is not None  # the name ends in .py
        sys.modules[module_name] = importlib.util.module_from_spec(spec)
        try:
            with running(str(file), "it was imported", _IMPORT_FIX), importable(str(file), gate):
                exec(compile(data, file, "exec"), vars(sys.modules[module_name]))
        except GraftError:
            del sys.modules[module_name]
            raise
    return sys.modules[module_name]


def _import_package(name: str, factory: str, gate: Gate | None) -> ModuleType:
    """Import a dotted name; the working directory is on the path, as with `python -m`."""
    if gate is not None and (name, factory) not in _BUILT_IN:
        fix = f"Name the network yourself: {name}:{factory}, with its weights as the checkpoint."
        raise refusal(gate.document, f"`{factory}` of the package `{name}`", fix)
    with running(name, "it was imported", _IMPORT_FIX), importable(name):
        return importlib.import_module(name)


@contextmanager
def importable(where: str, gate: Gate | None = None) -> Iterator[None]:
    """Put the folder of a file, or the working directory, first on the import path; then remove the file's siblings."""
    folder, loaded_before = str(Path(where).parent if is_file(where) else Path.cwd()), set(sys.modules)
    importlib.invalidate_caches()
    with _on_sys_path(folder) if gate is None else _imports_gated(Path(folder), gate):
        try:
            yield
        finally:
            for name in set(sys.modules) - loaded_before if is_file(where) else ():
                origin = str(getattr(sys.modules[name], "__file__", None) or "")
                if origin.startswith(folder) and _PRIVATE not in name:
                    del sys.modules[name]


@contextmanager
def _on_sys_path(folder: str) -> Iterator[None]:
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


@contextmanager
def _imports_gated(folder: Path, gate: Gate) -> Iterator[None]:
    """Send imports through the gate; restore sys.path afterwards."""
    before, finder = list(sys.path), _GatedFinder(folder, gate)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        sys.path[:] = before


class _GatedFinder(importlib.abc.MetaPathFinder):
    """Find installed modules and modules next to a file; the latter must pass the gate."""

    def __init__(self, folder: Path, gate: Gate) -> None:
        self.folder, self.gate = folder, gate
        here = {"", ".", str(Path.cwd()), str(folder)}
        # copied before user code can change sys.path
        self.installed = [entry for entry in sys.path if entry not in here]
        self.packages: set[str] = set()  # packages that passed the gate; their submodules must pass it too

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name in sys.builtin_module_names:
            return None
        if path is not None:
            inside = name.rpartition(".")[0] in self.packages
            return self._admit(name, PathFinder.find_spec(name, path)) if inside else None
        if (neighbour := PathFinder.find_spec(name, [str(self.folder)])) is not None:
            return self._admit(name, neighbour)
        known = PathFinder.find_spec(name, self.installed)
        return known if known is not None else self._admit(name, PathFinder.find_spec(name, sys.path))

    def _admit(self, name: str, spec: ModuleSpec | None) -> ModuleSpec | None:
        """The spec of a module whose bytes passed the gate; exactly those bytes run."""
        if spec is None:
            return None
        if spec.submodule_search_locations is not None:
            self.packages.add(name)
        if spec.origin is None:  # a namespace package
            return spec
        file = Path(spec.origin)
        if file.suffix != ".py":
            raise refusal(self.gate.document, f"the compiled module `{file}`", "Name the network yourself.")
        data = _read(file)
        self.gate.admit(file, data, IMPORT)
        spec.loader = _BytesLoader(file, data)
        return spec


class _BytesLoader(importlib.abc.InspectLoader):
    """Run the bytes that passed the gate, even if the file has changed since."""

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
    """Redirect the prints of user code to stderr; turn its exceptions into one PairError with the line number."""
    try:
        with redirect_stdout(sys.stderr):
            yield
    except GraftError:
        raise
    except (Exception, SystemExit) as err:
        lines = [frame.lineno for frame in traceback.extract_tb(err.__traceback__) if frame.filename == where]
        line = f" at line {lines[-1]}" if lines else ""
        message = f"`{where}` raised {type(err).__name__}{line} while {what}: {err}."
        raise PairError(message, fix) from err
