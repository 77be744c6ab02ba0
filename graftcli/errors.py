"""What can go wrong, as a tree. Each leaf of it owns one exit code.

    GraftError
    |-- UsageError        2   the command, a setting or a recipe
    |-- PairError         3   the networks cannot be read, cut or paired
    |-- GateError         4   a quality or parity gate
    |-- ImagesError       5   the images
    |-- CheckpointError   6   the weights
    `-- MachineError      7   disk, memory, a folder in use

A message says what was found, with the names and numbers of both sides, then what to do about it.
"""

from collections.abc import Sequence
from typing import ClassVar


class GraftError(Exception):
    """A problem that the user can mend: `found` says what there is, `mend` what to do."""

    exit_code: ClassVar[int] = 1

    def __init__(self, found: str, mend: str = "") -> None:
        super().__init__(f"{found}\n{mend}" if mend else found)
        self.found = found
        self.mend = mend


class UsageError(GraftError):
    exit_code = 2


class PairError(GraftError):
    exit_code = 3


class GateError(GraftError):
    exit_code = 4


class ImagesError(GraftError):
    exit_code = 5


class CheckpointError(GraftError):
    exit_code = 6


class MachineError(GraftError):
    exit_code = 7


def few(names: Sequence[str], most: int = 3) -> str:
    """The first of many names, for a message: a, b, c and 4 more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
