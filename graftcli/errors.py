"""The exceptions of graftcli, each with its exit code.

    GraftError
    |-- UsageError        2   the command, an option or a recipe
    |-- PairError         3   a network cannot be traced or cut, or the two cannot be paired
    |-- GateError         4   a quality or parity check
    |-- ImagesError       5   the images
    |-- CheckpointError   6   a checkpoint or saved file
    `-- MachineError      7   disk, memory, a folder in use

A message states the problem, with the names and numbers of both sides; `fix` states the remedy.
"""

from collections.abc import Sequence
from typing import ClassVar


class GraftError(Exception):
    """Base class of all errors that the user can fix: `message` states the problem, `fix` the remedy."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(f"{message}\n{fix}" if fix else message)
        self.message = message
        self.fix = fix


class UsageError(GraftError):
    """A command, an option or a recipe is wrong."""

    exit_code = 2


class PairError(GraftError):
    """A network cannot be read or cut, or two networks cannot be paired."""

    exit_code = 3


class GateError(GraftError):
    """A quality or parity check failed."""

    exit_code = 4


class ImagesError(GraftError):
    """The images cannot be read, or do not suffice."""

    exit_code = 5


class CheckpointError(GraftError):
    """A checkpoint or a saved file is damaged, or does not fit."""

    exit_code = 6


class MachineError(GraftError):
    """Disk or memory does not suffice, or a folder is in use."""

    exit_code = 7


def few(names: Sequence[str], most: int = 3) -> str:
    """Join the first `most` names and count the rest: `a, b, c and 4 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
