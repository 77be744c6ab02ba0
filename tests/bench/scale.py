"""How much faster several processes are than one, on this machine; and how far the division of the work goes.

    python tests/bench/scale.py --processes 2          # as many cores must be free
    python tests/bench/scale.py --pair vgg --scale 0.02 --only stages
    python tests/bench/scale.py --simulate             # on paper, up to 1,000 processes

Each process has one thread, also the single one. Times are of the stages of one run (from its events), and of a whole
comparison with its start; a ratio is of two runs of the same command, one after another.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import graftcli
from graftcli.environment.machine import cpu

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("GRAFTCLI_DATA", "data"))
CIFAR = DATA / "cifar10"
NETS = ROOT / "tests/nets.py"
PAIRS = {  # teacher, its weights, student: three blocks, and four of nearly the same cost
    "resnet": ("resnet(depth=56)", "resnet56-4bfd9763.th", "resnet(depth=20)"),
    "vgg": ("vgg16", "vgg16.safetensors", "resnet18"),
}
SIMULATED = (1, 2, 4, 8, 16, 64, 256, 1000)


def run(processes: int, *words: str) -> list[tuple[float, dict[str, Any]]]:
    """Run graftcli in this many processes of one thread, each on a core of its own; return (seconds, event)."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    cores = set(sorted(os.sched_getaffinity(0))[:processes])
    began, events = time.monotonic(), []
    job = subprocess.Popen(
        [*(start if processes > 1 else [sys.executable]), "-m", "graftcli", *words, "--json"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    assert job.stderr is not None  # a pipe
    for line in job.stderr:
        events.append((time.monotonic() - began, json.loads(line) if line.startswith("{") else {"event": "text"}))
    if job.wait():
        raise SystemExit(f"failed: {' '.join(words)}")
    return [*events, (time.monotonic() - began, {"event": "end"})]


def words_of(pair: str, images: str) -> tuple[str, ...]:
    """The networks and images of a command."""
    teacher, weights, student = PAIRS[pair]
    networks = ("--teacher", f"{NETS}:{teacher}", "--student", f"{NETS}:{student}")
    checkpoint = ("--teacher-checkpoint", str(CIFAR / "teachers" / weights))
    return *networks, *checkpoint, "--images", str(CIFAR / images), "--crop-pct", "1"


def stages(pair: str, processes: int, folder: Path, scale: float) -> dict[str, float]:
    """The wall-clock seconds of the teacher's pass and of both stages of the default recipe."""
    length = ("--steps-scale", str(scale), "--set", "views.total=4000")
    events = run(processes, "distill", *words_of(pair, "10shot-draw0"), *length, "--out", str(folder))
    passes = [at for at, event in events if event["event"] == "teacherpass"]
    finish = [at for at, event in events if event.get("stage") == "finish"]
    return {"teacher": passes[-1] - passes[0], "graft": finish[0] - passes[-1], "finish": finish[-1] - finish[0]}


def comparison(pair: str, processes: int, folder: Path, scale: float) -> dict[str, float]:
    """The wall-clock seconds of a comparison of six cells."""
    recipes = [word for name in ("graft", "kd", "fitnet") for word in ("--recipe", name)]
    length = ("--draws", "2", "--steps-scale", str(scale), "--out", str(folder))
    return {"compare": run(processes, "compare", *words_of(pair, "10shot-draw{draw}"), *recipes, *length)[-1][0]}


PARTS = {"stages": stages, "compare": comparison}


def measure(pair: str, parts: Sequence[str], processes: int, scale: float, scratch: Path) -> None:
    """Print the seconds of one process and of several, and their ratios."""
    print(f"{cpu().name}, torch {torch.__version__}\n")
    print(f"| what | 1 process | {processes} processes | ratio |\n| --- | --: | --: | --: |")
    for part in parts:
        alone, shared = (PARTS[part](pair, n, scratch / f"{part}-{n}", scale) for n in (1, processes))
        for name, seconds in alone.items():
            print(f"| {name} | {seconds:.1f} s | {shared[name]:.1f} s | {seconds / shared[name]:.2f} |", flush=True)


def simulate(sizes: Sequence[int] = SIMULATED) -> None:
    """Print the speed-up of the default recipe and of comparisons, if exchanges took no time."""
    pairs = (("torchvision:resnet34", "torchvision:resnet18"), ("torchvision:resnet50", "teacher*0.5"))
    print("| processes | " + " | ".join(f"{teacher} -> {student}" for teacher, student in pairs) + " | 100 cells |")
    print("| --: |" + " --: |" * (len(pairs) + 1))
    plans = [graftcli.plan(teacher, student) for teacher, student in pairs]
    for size in sizes:
        speeds = [f"{graftcli.shares(plan, size).speed_up:.2f}" for plan in plans]
        cells = 100 / -(-100 // size)
        print(f"| {size} | {' | '.join(speeds)} | {cells:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--scale", type=float, default=0.1, help="share of the recipe's steps")
    parser.add_argument("--pair", choices=PAIRS, default="resnet")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=[*PARTS])
    parser.add_argument("--simulate", action="store_true")
    given = parser.parse_args()
    if given.simulate:
        simulate()
        return
    with tempfile.TemporaryDirectory() as scratch:
        measure(given.pair, given.only, given.processes, given.scale, Path(scratch))


if __name__ == "__main__":
    main()
