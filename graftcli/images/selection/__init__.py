"""Select images from a large collection. `NAMES` lists the methods, one file each."""

from typing import TYPE_CHECKING

from graftcli.errors import UsageError
from graftcli.formatting import one_of

if TYPE_CHECKING:
    from graftcli.images.selection.method import SelectionMethod

NAMES = ("balanced", "diverse", "random")


def method_named(name: str) -> "SelectionMethod":
    """The method with this name."""
    from graftcli.images.selection.balanced import BALANCED
    from graftcli.images.selection.diverse import DIVERSE
    from graftcli.images.selection.random import RANDOM

    methods = {method.name: method for method in (BALANCED, DIVERSE, RANDOM)}
    if name not in methods:
        raise UsageError(f"the selection method `{name}` is unknown.", f"Give {one_of(NAMES)}.")
    return methods[name]
