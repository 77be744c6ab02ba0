"""Train the demo's teacher: `python3 -m graftcli.demo.train_teacher` writes the weights to the working directory.

Takes about 3.5 minutes on one core and prints nothing. The same machine and torch version give the same bytes; the
metadata of the file records the training settings and the test accuracy.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from numpy.random import RandomState
from torch import Tensor

from graftcli.demo import TEACHER_WEIGHTS, TRAIN_ROWS, digits, held_out
from graftcli.demo.networks import INPUT, DigitNet, teacher
from graftcli.demo.scenes import SIDE, scenes
from graftcli.images.pixels import Preprocess, normalise
from graftcli.measure import accuracy, compute_logits
from graftcli.store.atomic import write_bytes

PREPROCESS = Preprocess((SIDE, SIDE), 1, INPUT["mean"], INPUT["std"], INPUT["crop_pct"], INPUT["interpolation"])
SEED = 0
EPOCHS = 150
BATCH = 50
MAX_LR = 3e-3  # peak of the one-cycle schedule
WEIGHT_DECAY = 0.02
WARP = 0.15  # amplitude of the random affine augmentation


def train(epochs: int) -> DigitNet:
    """Train a teacher, with new scenes in every epoch, and return it in eval mode."""
    torch.manual_seed(SEED)
    network = teacher().train()
    optimiser = torch.optim.AdamW(network.parameters(), MAX_LR, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, MAX_LR, epochs * TRAIN_ROWS // BATCH)
    for images, labels in _batches(epochs):
        optimiser.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimiser.step()
        schedule.step()
    return network.eval()


def _batches(epochs: int) -> Iterator[tuple[Tensor, Tensor]]:
    random, generator = RandomState(SEED), torch.Generator().manual_seed(SEED)
    strokes, classes = digits()
    labels = torch.from_numpy(classes[:TRAIN_ROWS]).long()
    for _ in range(epochs):
        images = normalise(torch.from_numpy(scenes(strokes[:TRAIN_ROWS], random))[:, None], PREPROCESS)
        for rows in torch.split(torch.randperm(TRAIN_ROWS, generator=generator), BATCH):
            yield _warp(images[rows], generator), labels[rows]


def _warp(images: Tensor, generator: torch.Generator) -> Tensor:
    theta = torch.eye(2, 3).repeat(len(images), 1, 1)
    theta[:, :, :2] += WARP * (2 * torch.rand(len(images), 2, 2, generator=generator) - 1)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def make(path: Path, epochs: int = EPOCHS) -> None:
    """Train a teacher and write its weights in half precision, with settings and test accuracy as metadata."""
    network = train(epochs)
    tensors = {name: t.half() if t.is_floating_point() else t for name, t in network.state_dict().items()}
    network.load_state_dict(tensors)
    images, labels = held_out()
    score = accuracy(compute_logits(network, images, PREPROCESS, torch.device("cpu")), labels)
    facts = {
        "made_by": "python3 -m graftcli.demo.train_teacher",
        "seed": SEED,
        "epochs": epochs,
        "torch": torch.__version__,
        "held_out_top1": round(score.top1.share, 5),
    }
    write_bytes(path, safetensors.torch.save(tensors, {"training": json.dumps(facts, sort_keys=True)}))


if __name__ == "__main__":
    torch.set_num_threads(1)  # the same sums on any number of cores
    make(Path(TEACHER_WEIGHTS.name))
