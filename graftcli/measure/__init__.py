"""What a network is worth: parameters, accuracy with its uncertainty, agreement with its teacher."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graftcli.images.pixels import Preprocess, centre, normalise


@dataclass(frozen=True)
class ShareOfImages:
    """A share of images, with Wilson's 95% interval."""

    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Accuracy:
    images: int
    top1: ShareOfImages
    top5: ShareOfImages | None  # None for fewer than six classes


@dataclass(frozen=True)
class Agreement:
    """How far a network answers as its teacher does."""

    images: int
    agreement: ShareOfImages  # the share of images with the same first answer
    kl: float  # KL(teacher || network), averaged over the images, in nats


def size_of(module: nn.Module) -> int:
    """The bytes of its weights and buffers, which is what its file holds."""
    return sum(t.numel() * t.element_size() for t in module.state_dict().values())


@torch.no_grad()
def logits(module: nn.Module, pixels: Tensor, preprocess: Preprocess, device: torch.device, batch: int = 128) -> Tensor:
    """The network's answers to images as they are evaluated; in eval mode, float32, on the CPU."""
    module = module.eval().to(device)
    found = [
        module(normalise(centre(part, preprocess), preprocess).to(device)).float().cpu() for part in pixels.split(batch)
    ]
    return torch.cat(found)


def accuracy(answers: Tensor, labels: Tensor) -> Accuracy:
    ranked = answers.topk(min(5, answers.shape[1]), dim=1).indices == labels[:, None]
    count = len(labels)
    top5 = rate(int(ranked.any(1).sum()), count) if answers.shape[1] > 5 else None
    return Accuracy(count, rate(int(ranked[:, 0].sum()), count), top5)


def likeness(answers: Tensor, teacher: Tensor) -> Agreement:
    same = int((answers.argmax(1) == teacher.argmax(1)).sum())
    kl = F.kl_div(F.log_softmax(answers, 1), F.log_softmax(teacher, 1), reduction="batchmean", log_target=True)
    return Agreement(len(answers), rate(same, len(answers)), float(kl))


def rate(hits: int, count: int) -> ShareOfImages:
    """hits / count with Wilson's interval, which is sound for few images and for shares near 0 and 1."""
    z = 1.959964
    share = hits / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return ShareOfImages(share, max(0.0, middle - half), min(1.0, middle + half))
