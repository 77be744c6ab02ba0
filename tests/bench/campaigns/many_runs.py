"""A hundred distillations in one process: memory, open files, threads and temporary files do not grow.

    python -m tests.bench.campaigns.many_runs --count 100 --warming 10

Each run has a folder of its own, which is removed when it is finished. What the process holds after the warm-up is
compared with what it holds at the end.
"""

import argparse
import gc
import os
import random
import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from tests.bench.campaigns.harness import FREQUENT, prepare, scratch, set_constants
from tests.bench.campaigns.place import Place, furnish

# what a hundred runs may add: allocators keep some pages, and a run more or less at work makes no leak
MOST_GROWTH = 32 * 2**20  # bytes of RSS
_SETTINGS = ("views.count=2", "stages.graft.steps=4", "stages.finish.steps=4")


@dataclass(frozen=True)
class Held:
    """What the process holds."""

    memory: int  # bytes, resident
    files: int  # open descriptors
    threads: int  # of Python, and of the system
    system_threads: int
    temporary: int  # files and folders in TMPDIR
    children: int

    def grown(self, before: "Held") -> list[str]:
        """What there is more of than before."""
        names = ("memory", "files", "threads", "system_threads", "temporary", "children")
        pairs = zip(names, astuple(self), astuple(before), strict=True)
        return [
            f"{name}: {then} -> {now}"
            for name, now, then in pairs
            if now - then > (MOST_GROWTH if name == "memory" else 0)
        ]


def held() -> Held:
    """What this process holds now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    children = sum(len(task.read_text(encoding="ascii").split()) for task in Path("/proc/self/task").glob("*/children"))
    return Held(
        memory=pages * os.sysconf("SC_PAGE_SIZE"),
        files=_entries("/proc/self/fd"),
        threads=threading.active_count(),
        system_threads=_entries("/proc/self/task"),
        temporary=_entries(tempfile.gettempdir()),
        children=children,
    )


def _entries(folder: str) -> int:
    return sum(1 for _ in Path(folder).iterdir())


def run_once(place: Place, out: Path, seed: int) -> None:
    """One distillation through the Python API, as a notebook has it."""
    from graftcli.runs.config import ModelPair, RunConfig, TrainOptions
    from graftcli.runs.running import distill

    nets = place.folder / "nets.py"
    networks = ModelPair(f"{nets}:big", f"{nets}:small", teacher_checkpoint=str(place.folder / "teacher.pth"))
    how = TrainOptions(overrides=_SETTINGS, batch=8, seed=seed, device="cpu", cache_gb=0.00008)
    distill(RunConfig(networks, str(place.folder / "photos"), how=how), out=out)
    shutil.rmtree(out)


def measure(place: Place, count: int, warming: int) -> tuple[Held, Held]:
    """What is held after the warm-up and after all runs."""
    set_constants(FREQUENT)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(
            0, {random.choice(sorted(os.sched_getaffinity(0)))}
        )  # one thread, however busy the machine
    temporary = place.folder / "tmp"
    temporary.mkdir(exist_ok=True)
    os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
    after_warming = held()
    for number in range(1, count + 1):
        run_once(place, place.folder / "run", number)
        if number == warming:
            after_warming = held()
        if number % 10 == 0:
            print(f"{number:4} {held()}", flush=True)
    return after_warming, held()


def row(count: int, before: Held, after: Held, seconds: float) -> str:
    """One line of a table."""
    cells = [
        f"{count} runs in one process",
        f"RSS {before.memory / 2**20:.1f} -> {after.memory / 2**20:.1f} MiB",
        f"open files {before.files} -> {after.files}",
        f"threads {before.system_threads} -> {after.system_threads}",
        f"temporary files {before.temporary} -> {after.temporary}",
    ]
    return f"| many runs | {' | '.join(cells)} | {len(after.grown(before))} faults | {seconds / 60:.1f} min |"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--warming", type=int, default=10)
    parser.add_argument("--folder", type=Path, help="where all runs are; without it a temporary folder")
    given = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    prepare()
    began = time.monotonic()
    with scratch(given.folder) as folder:
        place = furnish(folder)
        before, after = measure(place, given.count, given.warming)
    for text in after.grown(before):
        print(f"FAULT grown: {text}")
    print(row(given.count, before, after, time.monotonic() - began))
    return int(bool(after.grown(before)))


if __name__ == "__main__":
    raise SystemExit(main())
