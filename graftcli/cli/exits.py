"""Convert the exception that ended a command into an exit code and a message."""

import errno
import sys
import traceback
from dataclasses import dataclass

import typer

from graftcli.environment.installs import explain
from graftcli.errors import GraftError, MachineError

BUG = 1
MACHINE = MachineError.exit_code
INTERRUPTED = 130
NO_READER = 141  # 128 + SIGPIPE, as for any command whose pipe is closed

_FULL = (errno.ENOSPC, errno.EDQUOT)
_CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_DEVICE = (errno.EIO, errno.ENXIO, errno.ENODEV, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENAMETOOLONG)
_FULL_TEXTS = ("No space left on device", "os error 28")  # how torch and safetensors report ENOSPC
_MEMORY_TEXTS = ("can't allocate memory", "out of memory")  # torch on the CPU raises a plain RuntimeError


@dataclass(frozen=True)
class Failure:
    """A failed command: exit code, message, fix and, for a bug, the traceback."""

    code: int
    message: str
    fix: str = ""
    trace: str = ""


def failure(problem: BaseException) -> Failure:
    """Return the message and exit code of an exception."""
    if isinstance(problem, GraftError):
        return Failure(problem.exit_code, problem.message, problem.fix)
    if isinstance(problem, KeyboardInterrupt | typer.Abort):
        return Failure(INTERRUPTED, "interrupted: run the same command again to resume")
    if isinstance(problem, typer.TyperException):
        command = getattr(getattr(problem, "ctx", None), "command_path", "graftcli")
        return Failure(problem.exit_code, problem.format_message(), f"See `{command} --help`.")
    return _machine(problem) or _bug(problem)


def _machine(problem: BaseException) -> Failure | None:
    """Return the failure for a full disk, denied access, lack of memory or a broken install; None for anything else."""
    if _is_full(problem):
        return Failure(
            MACHINE,
            f"No space left on the disk{_where(problem)}.",
            "Free some space or write to another disk, then run the same command again.",
        )
    if isinstance(problem, OSError) and problem.errno in _CLOSED:
        return Failure(
            MACHINE,
            f"Access to {problem.filename or 'a file'} denied: {problem.strerror}.",
            "Change the permissions, or choose another path.",
        )
    if isinstance(problem, OSError) and problem.errno in _DEVICE:
        return Failure(
            MACHINE,
            f"Cannot read or write {problem.filename or 'a file'}: {problem.strerror}.",
            "Check the disk, the mount and the limit of open files (ulimit -n), then run the same command again.",
        )
    if _is_memory(problem):
        return Failure(
            MACHINE,
            f"Out of memory: {_first_line(problem)}",
            "Use a smaller batch (-b), smaller images (--img-size) or another device, or close other programs;"
            " then run the command again, with --overwrite if the run has started.",
        )
    fault = explain(problem)
    return Failure(MACHINE, fault.found, fault.fix) if fault else None


def _bug(problem: BaseException) -> Failure:
    return Failure(
        BUG,
        f"bug in graftcli: {type(problem).__name__}: {_first_line(problem)}",
        "Please report it with the command, the output of `graftcli env` and this traceback:",
        "".join(traceback.format_exception(problem)),
    )


def _is_full(problem: BaseException) -> bool:
    by_errno = isinstance(problem, OSError) and problem.errno in _FULL
    return by_errno or any(text in str(problem) for text in _FULL_TEXTS)


def _is_memory(problem: BaseException) -> bool:
    """Return whether memory ran out; checks for torch errors only if torch is imported."""
    torch = sys.modules.get("torch")
    if isinstance(problem, MemoryError) or (torch and isinstance(problem, torch.OutOfMemoryError)):
        return True
    return isinstance(problem, RuntimeError) and any(text in str(problem) for text in _MEMORY_TEXTS)


def _where(problem: BaseException) -> str:
    name = getattr(problem, "filename", None)
    return f" of {name}" if name else ""


def _first_line(problem: BaseException) -> str:
    return str(problem).strip().partition("\n")[0]
