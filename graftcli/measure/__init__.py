"""Model size, accuracy and agreement with the teacher, with confidence intervals."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graftcli.images.pixels import Preprocess, center_crop, normalise


@dataclass(frozen=True)
class ShareOfImages:
    """A share of images, with its 95% Wilson interval."""

    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Accuracy:
    """The share of images whose class is predicted."""

    images: int
    top1: ShareOfImages
    top5: ShareOfImages | None  # None below six classes


@dataclass(frozen=True)
class Agreement:
    """How closely a network's predictions match its teacher's."""

    images: int
    agreement: ShareOfImages  # share of images with the same top-1 prediction
    kl: float  # KL(teacher || network) in nats, averaged over the images


def model_size(module: nn.Module) -> int:
    """The bytes of the state dict."""
    return sum(t.numel() * t.element_size() for t in module.state_dict().values())


@torch.no_grad()
def compute_logits(
    module: nn.Module, pixels: Tensor, preprocess: Preprocess, device: torch.device, batch: int = 128
) -> Tensor:
    """The logits of images preprocessed for evaluation, in float32 on the CPU. Puts `module` into eval mode."""
    module = module.eval().to(device)
    return torch.cat(
        [
            module(normalise(center_crop(images, preprocess), preprocess).to(device)).float().cpu()
            for images in pixels.split(batch)
        ]
    )


def accuracy(logits: Tensor, labels: Tensor) -> Accuracy:
    """Score predictions against class indices."""
    correct = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
    count = len(labels)
    top5 = wilson_interval(int(correct.any(1).sum()), count) if logits.shape[1] > 5 else None
    return Accuracy(count, wilson_interval(int(correct[:, 0].sum()), count), top5)


def agreement(logits: Tensor, teacher_logits: Tensor) -> Agreement:
    """Compare a network's predictions with its teacher's."""
    same = int((logits.argmax(1) == teacher_logits.argmax(1)).sum())
    kl = F.kl_div(F.log_softmax(logits, 1), F.log_softmax(teacher_logits, 1), reduction="batchmean", log_target=True)
    return Agreement(len(logits), wilson_interval(same, len(logits)), float(kl))


def wilson_interval(hits: float, count: int) -> ShareOfImages:
    """hits / count with its Wilson interval, which is accurate for few images and for shares near 0 and 1."""
    z = 1.959964
    share = hits / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return ShareOfImages(share, max(0.0, middle - half), min(1.0, middle + half))
