"""Which images to keep of many. `NAMES` lists the ways to choose them, one file each."""

from typing import TYPE_CHECKING

from graftcli.errors import UsageError
from graftcli.formatting import one_of

if TYPE_CHECKING:
    from graftcli.images.selection.method import Method

NAMES = ("balanced", "diverse", "random")


def method_named(name: str) -> "Method":
    """The method of this name."""
    from graftcli.images.selection.balanced import BALANCED
    from graftcli.images.selection.diverse import DIVERSE
    from graftcli.images.selection.random import RANDOM

    methods = {method.name: method for method in (BALANCED, DIVERSE, RANDOM)}
    if name not in methods:
        raise UsageError(f"there is no selection `{name}`.", f"Give {one_of(NAMES)}.")
    return methods[name]
