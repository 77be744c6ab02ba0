"""Registries that are folders: each file is an entry, and a new file is found without being listed anywhere."""

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType


def modules_in(package: ModuleType) -> Iterator[ModuleType]:
    """Import the modules of a package, by name."""
    for module in pkgutil.iter_modules(package.__path__):
        yield import_module(f"{package.__name__}.{module.name}")
