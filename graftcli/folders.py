"""Registries that are folders: each file is an entry, and a new file is registered without a list to edit."""

import pkgutil
from importlib import import_module
from types import ModuleType


def modules_in(package: ModuleType) -> list[ModuleType]:
    """Import the modules of a package, in the order of their names."""
    return [import_module(f"{package.__name__}.{module.name}") for module in pkgutil.iter_modules(package.__path__)]
