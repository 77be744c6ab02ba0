"""The default and every other recipe on pairs of networks that differ, the worst first.

    python tests/bench/pairs.py --seconds 60                      # each cell in a minute of training on one thread
    python tests/bench/pairs.py --scale 0.1 --only vgg16-half squeezenet --set stages.finish.lr=1e-3
    python tests/bench/pairs.py --recipes graft                   # at its own length: hours

Scored by the agreement with the teacher, and the KL divergence from it, on images that nothing is trained on; no test
image is read. A cell is a run of its own under --out, so the same command continues where it was interrupted. Networks
for ImageNet see images of 96 pixels, except the vision transformer, whose size is fixed, unless --full is given.
"""

import argparse
import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from graftcli.comparison.budget import Budget, fit_to_budget
from graftcli.errors import GraftError
from graftcli.recipe import Recipe
from graftcli.runs.config import ModelPair, RunConfig, TrainOptions
from graftcli.runs.running import distill
from graftcli.runs.scoring import PreprocessOptions

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("GRAFTCLI_DATA", "data"))
NETS = f"{HERE.parent / 'nets.py'}"
CIFAR, IMAGENET = DATA / "cifar10", DATA / "imagenet"
RECIPES = ("graft", "netgraft", "kd", "fitnet", "fskd", "cross", "mir", "practise", "grail")
SQUEEZENET = ((0.48235, 0.45882, 0.40784), (0.00392157,) * 3)


@dataclass(frozen=True)
class Pair:
    teacher: str
    weights: Path | None
    student: str
    images: Path
    held_out: Path | None = None  # None: a tenth of the images
    look: PreprocessOptions = field(default_factory=lambda: PreprocessOptions(crop_pct=1.0))
    size: tuple[int, int] | None = None  # of the short form
    scale: float = 1.0  # of --scale: larger networks get fewer steps


RESNET = (f"{NETS}:resnet(depth=56)", CIFAR / "teachers/resnet56-4bfd9763.th")
VGG = (f"{NETS}:vgg16", CIFAR / "teachers/vgg16.safetensors")
FEW, OTHERS, ONE_EACH = CIFAR / "10shot-draw0", CIFAR / "50shot-draw0", IMAGENET / "1shot"
SMALL = (96, 96)

PAIRS = {
    "resnet56-resnet20": Pair(*RESNET, f"{NETS}:resnet(depth=20)", FEW, OTHERS),
    "resnet56-pruned": Pair(*RESNET, "prune:act=0.68", FEW, OTHERS, scale=0.7),
    "resnet56-dropped": Pair(*RESNET, "drop:auto=14", FEW, OTHERS, scale=0.7),
    "vgg16-half": Pair(*VGG, "teacher*(1,1,1,.5,.5)", FEW, OTHERS, scale=0.5),
    "vgg16-resnet18": Pair(*VGG, f"{NETS}:resnet18", FEW, OTHERS, scale=0.15),
    "squeezenet": Pair(
        "torchvision:squeezenet1_1",
        IMAGENET / "teachers/squeezenet1_1.safetensors",
        "teacher*0.75",
        ONE_EACH,
        look=PreprocessOptions(mean=SQUEEZENET[0], std=SQUEEZENET[1], crop_pct=1.0),
        size=SMALL,
        scale=0.5,
    ),
    "lite1-lite0": Pair(
        "tf_efficientnet_lite1",
        IMAGENET / "teachers/tf_efficientnet_lite1.safetensors",
        "tf_efficientnet_lite0",
        ONE_EACH,
        size=SMALL,
        scale=0.15,
    ),
    "vit-dropped": Pair(
        "vit_tiny_patch16_224",
        IMAGENET / "teachers/vit_tiny_patch16_224.safetensors",
        "drop:auto=2",
        ONE_EACH,
        scale=0.05,
    ),
}


def run_config(pair: Pair, how: TrainOptions, *, full: bool) -> RunConfig:
    size = pair.look.img_size if full else pair.size
    return RunConfig(
        ModelPair(pair.teacher, pair.student, teacher_checkpoint=None if pair.weights is None else str(pair.weights)),
        str(pair.images),
        str(pair.held_out) if pair.held_out is not None else None,
        replace(pair.look, img_size=size),
        how,
    )


def scored(wanted: RunConfig, folder: Path, seconds: float | None) -> str:
    """The cell's run -> the end of its row in the table."""
    if seconds is not None:
        kept = folder.with_name(f"{folder.name}.in-{seconds:g}-s.json")  # a run's folder holds nothing of others
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            recipe = fit_to_budget(wanted, None, Budget(seconds=seconds), kept.parent, lambda _: None).recipe
            kept.write_text(recipe.model_dump_json())
        recipe = Recipe.model_validate_json(kept.read_text())
        wanted = replace(wanted, how=replace(wanted.how, recipe=recipe, overrides=()))
    result = distill(wanted, out=folder)
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    judged = [record for record in records if record.get("fraction") is not None]
    last = judged[-1]
    alone = " ".join(f"{100 * record['after']:.1f}" for record in judged[:-1] if record["loss"] is not None)
    part = "" if last["fraction"] == 1 else f", {last['fraction']:g} kept"
    change = f"{100 * last['before']:.1f} -> {100 * last['after']:.1f}{part}"
    kl = "" if result.kl is None else f"{result.kl:.4f}"
    return f"{100 * (result.agreement or 0):.2f} | {kl} | {change} | {alone} | {result.seconds:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(PAIRS), choices=PAIRS, metavar="PAIR")
    parser.add_argument("--recipes", nargs="*", default=list(RECIPES), choices=RECIPES, metavar="RECIPE")
    parser.add_argument("--scale", type=float, default=1.0, help="share of each recipe's steps")
    parser.add_argument("--seconds", type=float, help="of training for each cell, on this machine as it is now")
    parser.add_argument("--full", action="store_true", help="images of the networks' own size, no fewer steps for any")
    parser.add_argument("--amp", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], help="overrides for every recipe")
    parser.add_argument("--out", type=Path, default=Path("runs/pairs"))
    given = parser.parse_args()
    rows = []
    for name in given.only:
        pair = PAIRS[name]
        scale = given.scale if given.full or given.seconds is not None else given.scale * pair.scale
        for recipe in given.recipes:
            how = TrainOptions(recipe, tuple(given.set), scale, seed=given.seed, amp=given.amp)
            try:
                end = scored(run_config(pair, how, full=given.full), given.out / f"{name}-{recipe}", given.seconds)
            except GraftError as refused:
                print(f"left out: {recipe} on {name}: {refused.message}", flush=True)
                continue
            rows.append(f"| {name} | {recipe} | {end}")
            print(rows[-1], flush=True)
    print("\n| pair | recipe | agreement | KL | last stage | blocks alone | seconds |\n|---|---|--:|--:|---|---|--:|")
    print("\n".join(sorted(rows, key=lambda row: float(row.split("|")[3]))))


if __name__ == "__main__":
    main()
