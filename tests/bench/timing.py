"""Times and memory on a machine that is shared: CPU seconds of calls that take turns, and of whole processes."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

_ROOT = Path(__file__).resolve().parents[2]  # where `-m graftcli` finds the package
_LOOK_EVERY = 0.02  # seconds between two looks at a process's memory


def interleaved(calls: Mapping[str, Callable[[], object]], rounds: int, warming: int = 2) -> dict[str, float]:
    """The median CPU seconds of each call; they take turns, so that what else the machine does meets all alike."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(warming + rounds):
        for name, call in calls.items():
            began = time.process_time()
            call()
            if number >= warming:
                taken[name].append(time.process_time() - began)
    return {name: median(seconds) for name, seconds in taken.items()}


@dataclass(frozen=True)
class Process:
    """What a finished process took; memory in bytes. Pages of a mapped file count as held, but not as its own."""

    seconds: float  # of CPU, user and system
    held: int  # at most, as /proc has it
    own: int  # at most, without pages of files


def watched(command: Sequence[str], folder: Path) -> Process:
    """Run a command of this Python to its end. A child's ru_maxrss would hold its parent's too: /proc knows better."""
    held = own = 0
    log = folder / "log"
    with log.open("ab") as out:
        process = subprocess.Popen([sys.executable, *command], stdout=out, stderr=out, cwd=_ROOT)
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            status_file = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
            facts = dict(line.split(":", 1) for line in status_file.splitlines())
            held = max(held, _bytes(facts, "VmHWM"))
            own = max(own, _bytes(facts, "RssAnon"))
            time.sleep(_LOOK_EVERY)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{log.read_text()[-2000:]}")
    return Process(usage.ru_utime + usage.ru_stime, held, own)


def _bytes(facts: Mapping[str, str], name: str) -> int:
    return int(facts[name].split()[0]) * 1024 if name in facts else 0  # a process that ends has none
