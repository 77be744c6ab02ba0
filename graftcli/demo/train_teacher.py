"""How teacher.safetensors was made: `python3 -m graftcli.demo.train_teacher` writes one into the working directory.

Some three and a half minutes on one core, in silence. The same machine and torch give the same bytes; the file's
metadata says how it was made and what it scores.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from numpy.random import RandomState
from torch import Tensor

from graftcli.demo import TAUGHT, TEACHER_WEIGHTS, digits, held_out
from graftcli.demo.networks import INPUT, DigitNet, teacher
from graftcli.demo.scenes import SIDE, scenes
from graftcli.images.pixels import Preprocess, normalise
from graftcli.measure import accuracy, logits
from graftcli.store.atomic import write_bytes

PREPROCESS = Preprocess((SIDE, SIDE), 1, INPUT["mean"], INPUT["std"], INPUT["crop_pct"], INPUT["interpolation"])
SEED = 0
EPOCHS = 150
BATCH = 50
RATE = 3e-3  # the highest of a one-cycle schedule
DECAY = 0.02
WARP = 0.15  # how far a picture is turned, sheared and stretched, as hands differ


def trained(epochs: int) -> DigitNet:
    """The teacher after so many rounds over its digits, each of them in a new scene each time; in eval mode."""
    torch.manual_seed(SEED)
    network = teacher().train()
    optimiser = torch.optim.AdamW(network.parameters(), RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, epochs * TAUGHT // BATCH)
    for pictures, labels in _batches(epochs):
        optimiser.zero_grad()
        F.cross_entropy(network(pictures), labels).backward()
        optimiser.step()
        schedule.step()
    return network.eval()


def _batches(epochs: int) -> Iterator[tuple[Tensor, Tensor]]:
    random, chance = RandomState(SEED), torch.Generator().manual_seed(SEED)
    strokes, classes = digits()
    labels = torch.from_numpy(classes[:TAUGHT]).long()
    for _ in range(epochs):
        pictures = normalise(torch.from_numpy(scenes(strokes[:TAUGHT], random))[:, None], PREPROCESS)
        for rows in torch.split(torch.randperm(TAUGHT, generator=chance), BATCH):
            yield _warped(pictures[rows], chance), labels[rows]


def _warped(pictures: Tensor, chance: torch.Generator) -> Tensor:
    to_source = torch.eye(2, 3).repeat(len(pictures), 1, 1)
    to_source[:, :, :2] += WARP * (2 * torch.rand(len(pictures), 2, 2, generator=chance) - 1)
    grid = F.affine_grid(to_source, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


def make(path: Path, epochs: int = EPOCHS) -> None:
    """A teacher's weights at half precision, in which they are scored too, with what there is to know of them."""
    network = trained(epochs)
    tensors = {name: t.half() if t.is_floating_point() else t for name, t in network.state_dict().items()}
    network.load_state_dict(tensors)
    pictures, labels = held_out()
    score = accuracy(logits(network, pictures, PREPROCESS, torch.device("cpu")), labels)
    facts = {
        "made_by": "python3 -m graftcli.demo.train_teacher",
        "seed": SEED,
        "epochs": epochs,
        "torch": torch.__version__,
        "held_out_top1": round(score.top1.share, 5),
    }
    write_bytes(path, safetensors.torch.save(tensors, {"training": json.dumps(facts, sort_keys=True)}))


if __name__ == "__main__":
    torch.set_num_threads(1)  # sums are the same on any number of cores
    make(Path(TEACHER_WEIGHTS.name))
