"""The paper's CIFAR-10 teacher, a VGG16 without BatchNorm in its convolutions, trained on whatever images are at hand.

    python tests/bench/train_vgg16.py --images cifar10/50shot-draw0 --epochs 200 --out runs/vgg16
    python tests/bench/train_vgg16.py --images cifar10/train        --epochs 100 --out runs/vgg16

No labels are read: it learns from the ResNet-56 beside the images, by the recipe kd with most views a mix of several.
With all 50,000 training images that is the paper's teacher; with few it is a weaker one of the same architecture.
"""

import argparse
import os
from pathlib import Path

from graftcli.runs.config import ModelPair, RunConfig, TrainOptions
from graftcli.runs.running import distill
from graftcli.runs.scoring import PreprocessOptions

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("GRAFTCLI_DATA", "data")) / "cifar10"
NETS = HERE.parent / "nets.py"
MIXES = "views.augment={crop: {padding: 0.125}, flip: true, mixup: {share: 0.5}, cutmix: {share: 0.5}}"


def run_config(images: str, epochs: int, batch: int) -> RunConfig:
    """VGG16 from random weights towards the answers of ResNet-56."""
    teacher, student = f"{NETS}:resnet(depth=56)", f"{NETS}:vgg16"
    networks = ModelPair(teacher, student, teacher_checkpoint=str(DATA / "teachers/resnet56-4bfd9763.th"))
    settings = (MIXES, f"stages.finish.epochs={epochs}", "stages.finish.clip=1.0", "stages.finish.warmup=0.05")
    return RunConfig(
        networks,
        images,
        None,
        PreprocessOptions(crop_pct=1.0),
        TrainOptions(recipe="kd", overrides=settings, batch=batch),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default=str(DATA / "50shot-draw0"))
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("runs/vgg16"))
    given = parser.parse_args()
    result = distill(run_config(given.images, given.epochs, given.batch), out=given.out, listen=print)
    print(f"{given.out}/model.safetensors: agrees with its teacher on {result.agreement} of the held-out images")


if __name__ == "__main__":
    main()
