"""Cases run in forked children, in batches: how each ended, the CPU time it took, how much memory it needed.

A case that ends its process, or that takes longer than the limit, ends its batch; the next one begins behind it.
"""

import json
import os
import resource
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from graftcli.errors import GraftError

LIMIT = 20.0  # seconds of CPU time: those of the clock depend on what else the machine does
_PATIENCE = 10  # wall-clock limit as a multiple of the CPU limit, for cases that wait without using the CPU
MOST_MEMORY = 2 << 30


@dataclass(frozen=True)
class Outcome:
    """`word` is what the case returned; or refused, traceback, hang, crash."""

    case: str
    word: str
    message: str
    seconds: float  # of CPU time
    memory: (
        int  # bytes: the most that the process or a child of it has held, since its batch began, beyond the parent's
    )


def outcomes(
    cases: Sequence[str], run: Callable[[str], str], *, limit: float = LIMIT, batch: int = 50
) -> Iterator[Outcome]:
    """How each case ends in a child of this process; `run` returns a word, or raises a GraftError as a refusal."""
    done = 0
    while done < len(cases):
        part = cases[done : done + batch]
        found = list(_batch(part, run, limit))
        yield from found
        done += len(found)


def _batch(cases: Sequence[str], run: Callable[[str], str], limit: float) -> Iterator[Outcome]:
    reading, writing = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if not child:
        os.close(reading)
        _in_child(cases, run, limit, writing)
    os.close(writing)
    ended = 0
    with os.fdopen(reading) as lines:
        for line in lines:
            yield Outcome(**json.loads(line))
            ended += 1
    _, status, usage = os.wait4(child, 0)
    if ended < len(cases):  # the memory of a fork counts what its parent holds
        code = os.waitstatus_to_exitcode(status)
        word, taken = ("hang", limit) if code in (-signal.SIGPROF, -signal.SIGALRM) else ("crash", 0.0)
        yield Outcome(cases[ended], word, f"exit code {code}", taken, usage.ru_maxrss * 1024 - _held())


def _in_child(cases: Sequence[str], run: Callable[[str], str], limit: float, writing: int) -> None:
    try:
        for alarm in (signal.SIGPROF, signal.SIGALRM):
            signal.signal(alarm, signal.SIG_DFL)
        held = _held()
        torch.set_num_threads(1)  # the pool of threads of this process is not in its child
        for case in cases:
            signal.setitimer(signal.ITIMER_PROF, limit)
            signal.setitimer(signal.ITIMER_REAL, _PATIENCE * limit)
            began = _cpu_seconds()
            found = replace(_ended(case, run), seconds=_cpu_seconds() - began, memory=_memory() - held)
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            os.write(writing, (json.dumps(asdict(found)) + "\n").encode())
    finally:
        os._exit(0)


def _ended(case: str, run: Callable[[str], str]) -> Outcome:
    try:
        return Outcome(case, run(case), "", 0, 0)
    except GraftError as refused:
        word = "refused" if refused.message and refused.fix else "refused without a fix"
        return Outcome(case, word, str(refused)[:2000], 0, 0)
    except BaseException:
        return Outcome(case, "traceback", traceback.format_exc(limit=-6)[-3000:], 0, 0)


def _cpu_seconds() -> float:
    """The CPU time of this process and of its children that have ended."""
    return sum(os.times()[:4])


def _held() -> int:
    """Bytes that this process holds now, where the system tells."""
    if not Path("/proc/self/statm").exists():
        return 0
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _memory() -> int:
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(kind).ru_maxrss for kind in kinds) * 1024


COLUMNS = "campaign", "cases", "tracebacks", "hangs (> 20 s of CPU time)", "over 2 GB", "silent", "outcomes", "seconds"
HEAD = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"


def row(name: str, found: Sequence[Outcome], seconds: float) -> str:
    """One line of a table in Markdown."""
    words = Counter(one.word for one in found)
    hangs = sum(one.word == "hang" or one.seconds > LIMIT for one in found)
    over = sum(one.memory > MOST_MEMORY for one in found)
    bugs = words["traceback"] + words["crash"]
    listed = ", ".join(f"{count:,} {word}" for word, count in words.most_common())
    return f"| {name} | {len(found):,} | {bugs} | {hangs} | {over} | {words['silent']} | {listed} | {seconds:.0f} |"
