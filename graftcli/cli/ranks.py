"""Run a command in several processes started by torchrun: the first one shows progress, the others only errors.

This module does not import torch, so that `--help` stays fast.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from graftcli.cli.exits import MACHINE, Failure

_SHARED = ("distill", "partial", "compare")  # commands that divide their work among the processes


def rank() -> int:
    """The number of this process in its job; 0 for a single process."""
    text = os.environ.get("RANK", "")
    return int(text) if text.isdigit() and "MASTER_ADDR" in os.environ else 0


def takes_part(command: str | None) -> bool:
    """Whether this process runs the command: all processes run those that divide their work."""
    return rank() == 0 or command in _SHARED


def leave_job(command: str | None) -> None:
    """Leave the job before a command that one process runs alone: it would wait for the others, which have ended."""
    if command not in _SHARED:
        os.environ.pop("MASTER_ADDR", None)


def named(failed: Failure) -> Failure:
    """Add the rank of this process to the message of a failure."""
    return replace(failed, message=f"rank {rank()}: {failed.message}") if rank() else failed


def of_other_process(problem: BaseException) -> Failure | None:
    """Return the failure for an error in another process of the job; None for an error in this one."""
    if "MASTER_ADDR" not in os.environ:
        return None
    from graftcli.distributed.world import FailedElsewhere, is_lost_connection

    if not isinstance(problem, FailedElsewhere) and not is_lost_connection(problem):
        return None
    return Failure(
        MACHINE,
        "another process of this job has ended.",
        "See its error message, if there is one; then run the same command again to resume.",
    )


def print_once(failed: Failure, show: Callable[[Failure], Any]) -> None:
    """Show a failure of another process in the first process only."""
    if rank() == 0:
        show(failed)
