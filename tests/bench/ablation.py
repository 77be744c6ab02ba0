"""One idea at a time on top of the default recipe: CIFAR-10, resnet56 -> resnet20, a few unlabelled images.

    python tests/bench/ablation.py --shots 10 --draws 0,1,2 --scale 0.33 base adam …

Scored by the agreement with the teacher on other training images (50shot-draw0); no test image is read. Every cell is a
run of its own under --out, so that the same command goes on where it was broken off; blocks that are trained as in
`base` are taken over from it.
"""

import argparse
import os
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev

from graftcli.runs.config import ModelPair, RunConfig, TrainOptions
from graftcli.runs.result import Result
from graftcli.runs.running import distill
from graftcli.runs.scoring import PreprocessOptions

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("GRAFTCLI_DATA", "data")) / "cifar10"
NETS = f"{HERE.parent / 'nets.py'}"

IDEAS: dict[str, tuple[str, ...]] = {
    "base": (),
    "no-graft": ("stages.graft.steps=1",),
    "graft-2000": ("stages.graft.steps=2000",),
    "graft-first-longer": ("stages.graft.steps=[2000, 1000, 1000]",),
    "graft-own-input": ("stages.graft.input=student",),
    "graft-both-inputs": ("stages.graft.input=mix", "stages.graft.mu=0.5"),
    "graft-lr-2e-3": ("stages.graft.lr=2e-3",),
    "lr-doubled": ("stages.graft.lr=1e-2", "stages.finish.lr=6e-3"),
    "finish-9000": ("stages.finish.steps=9000",),
    "finish-lr-1e-2": ("stages.finish.lr=1e-2",),
    "finish-lr-1e-3": ("stages.finish.lr=1e-3",),
    "adam": (
        *("stages.graft.optimizer=adam", "stages.graft.lr=3e-3"),
        *("stages.finish.optimizer=adam", "stages.finish.lr=2e-3"),
    ),
    "graft-adam": ("stages.graft.optimizer=adam", "stages.graft.lr=3e-3"),
    "finish-adam": ("stages.finish.optimizer=adam", "stages.finish.lr=2e-3"),
    "finish-sgd": (
        *("stages.finish.optimizer=sgd", "stages.finish.lr=0.05"),
        *("stages.finish.warmup=0.1", "stages.finish.weight_decay=1e-4"),
    ),
    "kl-none": ("stages.finish.targets=[{at: features, loss: mse}]",),
    "kl-softer-heavier": (
        "stages.finish.targets=[{at: features, loss: mse}, {at: logits, loss: kl, temperature: 4, weight: 0.1}]",
    ),
    "kl-heavier": (
        "stages.finish.targets=[{at: features, loss: mse}, {at: logits, loss: kl, temperature: 1, weight: 0.1}]",
    ),
    "kl-heaviest": (
        "stages.finish.targets=[{at: features, loss: mse}, {at: logits, loss: kl, temperature: 1, weight: 1.0}]",
    ),
    "outputs": (
        "stages.finish.targets=[{at: outputs, loss: mse}, {at: logits, loss: kl, temperature: 1, weight: 0.01}]",
    ),
    "norm-l2": ("stages.finish.targets=[{at: features, loss: mse}, {at: logits, loss: norm-l2, weight: 1.0}]",),
    "logits-alone": ("stages.finish.targets=[{at: logits, loss: kl, temperature: 1}]",),
    "graft-batchnorm-trained": ("stages.graft.batchnorm=train",),
    "ema-none": ("stages.finish.ema=null",),
    "finish-decay": ("stages.finish.weight_decay=0.05",),
    "warmup-none": ("stages.finish.warmup=0",),
    "batchnorm-trained": ("stages.finish.batchnorm=train",),
    "batchnorm-recalibrated": ("stages.finish.batchnorm=recalibrate",),
    "blends-half": ("views.augment.mixup.share=0.5",),
    "pastes-half": ("views.augment.cutmix.share=0.5",),
    "boxes": ("views.augment.cutmix.shape=box",),
    "mixes-none": ("views.augment.mixup=null", "views.augment.cutmix=null"),
    "synthetic-none": ("views.synthetic=null",),
    "synthetic-1200": ("views.synthetic.images=1200",),
    "synthetic-20-steps": ("views.synthetic.steps=20",),
    "zoom-wider": ("views.augment.resized_crop={scale: [0.2, 1.0], ratio: [0.75, 1.33], share: 0.7}",),
    "colour-more": ("views.augment.colour.strength=0.5",),
    "colour-none": ("views.augment.colour=null",),
    "views-50": ("views.count=50",),
    "views-800": ("views.count=800",),
}


@dataclass(frozen=True)
class Cell:
    idea: str
    draw: int
    result: Result


def run_config(draw: int, shots: int, how: TrainOptions) -> RunConfig:
    """The config of one cell."""
    networks = ModelPair(
        f"{NETS}:resnet(depth=56)",
        f"{NETS}:resnet(depth=20)",
        teacher_checkpoint=str(DATA / "teachers/resnet56-4bfd9763.th"),
    )
    return RunConfig(
        networks,
        str(DATA / f"{shots}shot-draw{draw}"),
        str(DATA / "50shot-draw0"),
        PreprocessOptions(crop_pct=1.0),
        how,
    )


def cell(idea: str, draw: int, shots: int, how: TrainOptions, out: Path) -> Cell:
    """The run of one idea on one draw, with the base's blocks where they are trained in the same way."""
    base = out / f"base-{shots}-{draw}"
    reuse = base if idea != "base" and base.exists() else None
    wanted = run_config(draw, shots, replace(how, overrides=(*IDEAS[idea], *how.overrides)))
    return Cell(idea, draw, distill(wanted, out=out / f"{idea}-{shots}-{draw}", reuse=reuse))


def row(cells: list[Cell]) -> str:
    agreements = [100 * cell.result.agreement for cell in cells if cell.result.agreement is not None]
    spread = f" ± {stdev(agreements):.2f}" if len(agreements) > 1 else ""
    each = " ".join(f"{agreement:.2f}" for agreement in agreements)
    seconds = mean(cell.result.seconds for cell in cells)
    return f"| {cells[0].idea} | {mean(agreements):.2f}{spread} | {each} | {seconds:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ideas", nargs="*", default=["base"], choices=IDEAS, metavar="IDEA")
    parser.add_argument("--shots", type=int, default=10)
    parser.add_argument("--draws", default="0,1,2")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the recipe's steps")
    parser.add_argument("--amp", action="store_true", help="bfloat16: half the time where the CPU has it")
    parser.add_argument("--set", action="append", default=[], help="overrides for every idea, the base too")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    given = parser.parse_args()
    how = TrainOptions(overrides=tuple(given.set), steps_scale=given.scale, amp=given.amp)
    print("| idea | agreement | each draw | seconds |\n| --- | --- | --- | --- |")
    for idea in given.ideas:
        draws = [int(draw) for draw in given.draws.split(",")]
        print(row([cell(idea, draw, given.shots, how, given.out) for draw in draws]), flush=True)


if __name__ == "__main__":
    main()
