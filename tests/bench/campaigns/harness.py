"""A fork server for commands: torch, timm and graftcli are imported once, each case runs in a forked child.

    prepare()                            imports, once, before the first case
    run_case(Case(argv, folder))         -> Ended: exit code, output, seconds, memory

A child runs on one core, so that `usable_cores()` is 1 and the thread count of a run is the same in every case.
"""

import importlib
import itertools
import os
import pkgutil
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

# imported lazily by the commands; in the parent they are paid for once
_LAZY = (
    *(
        "timm",
        "torchvision",
        "onnx",
        "onnxruntime",
        "onnxscript",
        "matplotlib.figure",
        "matplotlib.backends.backend_svg",
    ),
    *("torch.onnx._internal.exporter._core", "torch.export", "torch._dynamo", "scipy.optimize"),
)

# constants of graftcli that a child changes, so that a run of a second writes what a run of an hour writes
FREQUENT = {
    "graftcli.store.intervals.SAVE_SECONDS": 0.0,
    "graftcli.graft.schedule._VIEWS_PER_SYNTHETIC": 1,  # a run this short makes no synthetic images otherwise
    "graftcli.graft.schedule._FEWEST_SYNTHETIC": 4,
}
_CORES = itertools.cycle(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else None


@dataclass(frozen=True)
class Case:
    """One command in one working directory."""

    argv: Sequence[str]
    folder: Path
    kill_after: float | None = None  # seconds
    within: Callable[[], None] = lambda: None  # runs in the child, last before the command
    behind: Callable[[], None] = lambda: None  # runs in the child when the command has ended


@dataclass(frozen=True)
class Ended:
    """How a command ended; `code` is -9 for one that was killed."""

    code: int
    stdout: str
    stderr: str
    seconds: float
    memory: int  # bytes, at most

    @property
    def output(self) -> str:
        """All that it printed."""
        return self.stdout + self.stderr

    @property
    def is_killed(self) -> bool:
        return self.code == -signal.SIGKILL


def prepare() -> None:
    """Import everything that a command may need; must run before any case, and nothing here may compute."""
    os.environ["MPLBACKEND"] = "Agg"
    import torch

    torch.set_num_threads(1)
    import graftcli

    for found in pkgutil.walk_packages(graftcli.__path__, "graftcli."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    for name in _LAZY:
        with suppress(ImportError):
            importlib.import_module(name)
    from PIL import Image

    Image.init()


def run_case(case: Case) -> Ended:
    """Fork, run the command, wait for it, and kill it on request."""
    case.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        sys.stdout.flush()
        sys.stderr.flush()
        began = time.monotonic()
        core = next(_CORES) if _CORES is not None else None
        child = os.fork()
        if not child:
            _in_child(case, (out.fileno(), err.fileno()), core)
        if case.kill_after is not None:
            _kill_after(child, case.kill_after)
        _, status, usage = os.wait4(child, 0)
        seconds = time.monotonic() - began
        stdout, stderr = _text(out), _text(err)
    return Ended(os.waitstatus_to_exitcode(status), stdout, stderr, seconds, usage.ru_maxrss * 1024)


def _text(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode("utf-8", errors="replace")


def _kill_after(child: int, seconds: float) -> None:
    """kill -9 at that moment, or nothing where the child has ended by then."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(min(0.002, max(0.0, end - time.monotonic())))
    os.kill(child, signal.SIGKILL)


def _in_child(case: Case, streams: tuple[int, int], core: int | None) -> NoReturn:
    """Run the command as `graftcli` does, and leave without the parent's exit handlers."""
    code = 99  # the harness itself is at fault
    try:
        for number, stream in enumerate(streams, 1):
            os.dup2(stream, number)
        if core is not None:
            os.sched_setaffinity(0, {core})
        os.chdir(case.folder)
        os.environ["TMPDIR"] = tempfile.tempdir = str(temporary_of(case.folder))
        Path(tempfile.tempdir).mkdir(exist_ok=True)
        set_constants(FREQUENT)
        case.within()
        code = _command(case.argv)
        case.behind()
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _command(argv: Sequence[str]) -> int:
    from graftcli.cli import app

    sys.argv = ["graftcli", *argv]
    try:
        app(prog_name="graftcli")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def temporary_of(folder: Path) -> Path:
    """Where a case has its TMPDIR."""
    return folder / "tmp"


def set_constants(values: Mapping[str, object]) -> None:
    """Change constants of modules, by dotted names; one that is not there is an error of the campaign."""
    for dotted, value in values.items():
        module, _, name = dotted.rpartition(".")
        home = importlib.import_module(module)
        if not hasattr(home, name):
            raise LookupError(f"{dotted} is gone: name its successor in tests/bench/campaigns/harness.py")
        setattr(home, name, value)


@contextmanager
def scratch(keep: Path | None = None) -> Iterator[Path]:
    """A folder for all cases; removed at the end, unless it is a named one."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
        return
    folder = Path(tempfile.mkdtemp(prefix="campaign-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
