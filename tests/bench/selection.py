"""Selected images against random ones: 100 of CIFAR-10's 500, chosen by each method, resnet56 -> resnet20.

    python tests/bench/selection.py                                 # three seeds, a tenth of the steps of the recipe
    python tests/bench/selection.py --count 50 --seeds 5 --steps-scale 0.03 --methods balanced random
    python tests/bench/selection.py --set views.synthetic=null      # other settings of the recipe

Scored by the agreement with the teacher on other unlabelled training images, none of them among the 500; no test image
is read. A cell is a run of its own under --out, so the same command continues where it was interrupted.
"""

import argparse
import hashlib
import json
import os
from pathlib import Path
from statistics import mean, stdev

from graftcli import distill, evaluate
from graftcli.images.selection import NAMES
from graftcli.images.sources import open_source
from graftcli.images.sources.list_file import list_json

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("GRAFTCLI_DATA", "data")).resolve() / "cifar10"
NETS = HERE.parent / "nets.py"
TEACHER, STUDENT = f"{NETS}:resnet(depth=56)", f"{NETS}:resnet(depth=20)"
WEIGHTS = DATA / "teachers/resnet56-4bfd9763.th"
SOURCE, OTHERS = DATA / "50shot-draw0", DATA / "pool.tar"


def other_images(file: Path, count: int) -> Path:
    """A list of images of the pool that are not among those to choose from."""
    with open_source(SOURCE) as opened:
        known = {hashlib.sha256(entry.read()).digest() for entry in opened.entries}
    with open_source(OTHERS) as opened:
        names: list[str] = []
        for entry in opened.entries:
            if len(names) < count and hashlib.sha256(entry.read()).digest() not in known:
                names.append(entry.name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(list_json(str(OTHERS), names)), encoding="utf-8")
    return file


def cell(method: str, seed: int, others: Path, given: argparse.Namespace) -> tuple[float, float]:
    """Agreement with the teacher, and the KL divergence from it, of a student trained on one choice."""
    folder = given.out / f"{method}-{seed}"
    distill(
        TEACHER,
        STUDENT,
        SOURCE,
        teacher_checkpoint=WEIGHTS,
        max_images=given.count,
        select=method,
        seed=seed,
        steps_scale=given.steps_scale,
        set=given.set,
        amp=given.amp,
        crop_pct=1.0,
        out=folder,
    )
    score = evaluate(str(folder), others, crop_pct=1.0, trust_code=True).models[0].likeness
    assert score is not None  # the run has a teacher
    return score.agreement.share, score.kl


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("select-bench"))
    parser.add_argument("--methods", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--others", type=int, default=2000, help="images to score on")
    parser.add_argument("--steps-scale", type=float, default=0.1)
    parser.add_argument("--set", action="append", default=[], help="override a field of the recipe")
    parser.add_argument("--amp", action="store_true")
    given = parser.parse_args()
    others = other_images(given.out / "others.list", given.others)
    print(f"{'method':<10} {'seed':>4} {'agreement':>10} {'KL':>8}")
    found: dict[str, list[float]] = {method: [] for method in given.methods}
    for seed in range(given.seeds):
        for method in given.methods:
            share, kl = cell(method, seed, others, given)
            found[method].append(100 * share)
            print(f"{method:<10} {seed:>4} {100 * share:>10.2f} {kl:>8.4f}", flush=True)
    print(f"\n| method | agreement, {given.count} of 500 images, {given.seeds} seeds |\n| --- | --: |")
    for method, shares in found.items():
        print(f"| {method} | {mean(shares):.2f} ± {stdev(shares) if len(shares) > 1 else 0:.2f} |")


if __name__ == "__main__":
    main()
