"""What ended a command -> its exit code and its message."""

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
NO_READER = 141  # 128 + SIGPIPE, as of any command whose reader went away

_FULL = (errno.ENOSPC, errno.EDQUOT)
_CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_DEVICE = (errno.EIO, errno.ENXIO, errno.ENODEV, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENAMETOOLONG)
_FULL_TEXTS = ("No space left on device", "os error 28")  # what torch and safetensors make of ENOSPC
_MEMORY_TEXTS = ("can't allocate memory", "out of memory")  # torch on the CPU raises a plain RuntimeError


@dataclass(frozen=True)
class Failure:
    """The end of a command that was not done: the exit code, what was found, what to do, and where if it is a bug."""

    code: int
    found: str
    mend: str = ""
    trace: str = ""


def failure(problem: BaseException) -> Failure:
    """What to say of `problem`, and the exit code that goes with it."""
    if isinstance(problem, GraftError):
        return Failure(problem.exit_code, problem.found, problem.mend)
    if isinstance(problem, KeyboardInterrupt | typer.Abort):
        return Failure(INTERRUPTED, "interrupted: run the same command again to resume")
    if isinstance(problem, typer.TyperException):
        command = getattr(getattr(problem, "ctx", None), "command_path", "graftcli")
        return Failure(problem.exit_code, problem.format_message(), f"`{command} --help` lists what it takes.")
    return _machine(problem) or _bug(problem)


def _machine(problem: BaseException) -> Failure | None:
    """The failure of a full disk, a closed folder, too little memory or a broken install, if `problem` is one."""
    if _is_full(problem):
        return Failure(
            MACHINE,
            f"No space is left on the disk{_where(problem)}.",
            "Free some, or write to another disk; then run the same command again.",
        )
    if isinstance(problem, OSError) and problem.errno in _CLOSED:
        return Failure(
            MACHINE,
            f"The system refuses access to {problem.filename or 'a file'}: {problem.strerror}.",
            "Change its permissions, or choose another place.",
        )
    if isinstance(problem, OSError) and problem.errno in _DEVICE:
        return Failure(
            MACHINE,
            f"The system cannot read or write {problem.filename or 'a file'}: {problem.strerror}.",
            "Check the disk, the mount and the limits of open files (ulimit -n); then run the same command again.",
        )
    if _is_memory(problem):
        return Failure(
            MACHINE,
            f"The memory is used up: {_first_line(problem)}",
            "Choose a smaller batch (-b), smaller images (--img-size) or another"
            " device, or end other programs; then run it again, with --overwrite where the run has begun.",
        )
    fault = explain(problem)
    return Failure(MACHINE, fault.found, fault.mend) if fault else None


def _bug(problem: BaseException) -> Failure:
    return Failure(
        BUG,
        f"a bug of graftcli: {type(problem).__name__}: {_first_line(problem)}",
        "Please report it with the command that you ran, the output of `graftcli env` and these lines:",
        "".join(traceback.format_exception(problem)),
    )


def _is_full(problem: BaseException) -> bool:
    by_number = isinstance(problem, OSError) and problem.errno in _FULL
    return by_number or any(text in str(problem) for text in _FULL_TEXTS)


def _is_memory(problem: BaseException) -> bool:
    """Whether memory ran out; asks torch only where a command has imported it already."""
    torch = sys.modules.get("torch")
    if isinstance(problem, MemoryError) or (torch and isinstance(problem, torch.OutOfMemoryError)):
        return True
    return isinstance(problem, RuntimeError) and any(text in str(problem) for text in _MEMORY_TEXTS)


def _where(problem: BaseException) -> str:
    name = getattr(problem, "filename", None)
    return f" of {name}" if name else ""


def _first_line(problem: BaseException) -> str:
    return str(problem).strip().partition("\n")[0]
