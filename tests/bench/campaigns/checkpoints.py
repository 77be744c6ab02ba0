"""Damaged and hostile checkpoints: refused with a message, or loaded with exactly the tensors that were saved.

    python -m tests.bench.campaigns.checkpoints [CASES]

prints a row for each format, and one for the files that are made to take all memory or never to end. `silent` counts
files that loaded with other tensors. The zip formats have checksums; safetensors and the format of torch before 1.6
have none, so that there a flipped bit in a weight cannot be found.
"""

import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from tests.hostile.checkpoint_mutations import BOMBS, FORMATS, damaged, name_of, tensors, whole
from tests.hostile.measured import HEAD, Outcome, outcomes, row
from tests.hostile.test_checkpoints import opened, outcome_of

CASES = 3000


def main(count: int = CASES) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(HEAD)
    with tempfile.TemporaryDirectory() as folder:
        for format in FORMATS:
            _damage(format, count // len(FORMATS), Path(folder))
        _bombs(Path(folder))


def _damage(format: str, count: int, folder: Path) -> None:
    held, path = tensors(), folder / name_of(format)
    sound = whole(format, held)

    def run(case: str) -> str:
        path.write_bytes(damaged(sound, format, int(case.rpartition(" ")[2]))[1])
        return outcome_of(path, held)

    cases = [f"{damaged(sound, format, seed)[0]} {seed}" for seed in range(count)]
    _report(f"damaged checkpoints, {format}", cases, run)


def _bombs(folder: Path) -> None:
    path = folder / "w.pth"

    def run(name: str) -> str:
        BOMBS[name](path)
        return opened(path)

    _report("hostile checkpoints", list(BOMBS), run, batch=1)


def _report(name: str, cases: list[str], run: Callable[[str], str], batch: int = 50) -> None:
    began = time.perf_counter()
    found = list(outcomes(cases, run, batch=batch))
    print(row(name, found, time.perf_counter() - began), flush=True)
    silent = Counter(one.case.rpartition(" ")[0] for one in found if one.word == "silent")
    if silent:
        print(f"  silent in {name}: {dict(silent)}", file=sys.stderr)
    for one in found:
        if one.word in ("traceback", "crash", "hang", "refused without a fix") or _is_heavy(one):
            print(
                f"  {one.case}: {one.word}, {one.seconds:.1f} s, {one.memory >> 20} MB {one.message}", file=sys.stderr
            )


def _is_heavy(one: Outcome) -> bool:
    return one.seconds > 10 or one.memory > 1 << 30


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
