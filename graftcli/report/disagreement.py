"""The images on which teacher and student disagree most, with both predictions."""

import base64
import io
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from graftcli.images import Images
from graftcli.images.labels import class_names
from graftcli.images.pixels import Preprocess, center_crop
from graftcli.measure import compute_logits
from graftcli.models.network import Network
from graftcli.models.weights import WeightsOrigin

MAX_IMAGES = 512  # to compare; images are sorted by hash, so the first ones are a random sample
MAX_SHOWN = 18
_MAX_SIDE = 96  # pixels of a thumbnail's longer side
_BATCH = 32


@dataclass(frozen=True)
class Prediction:
    """The top-1 prediction of a network."""

    index: int
    name: str | None  # of the class, if known
    share: float  # the predicted probability


@dataclass(frozen=True)
class Disagreement:
    """The predictions of both networks for one image."""

    image: str  # file name
    picture: str  # data URI of the network input
    teacher: Prediction
    student: Prediction
    kl: float  # KL(teacher || student), in nats


@dataclass(frozen=True)
class PredictionComparison:
    """The predictions of both networks for images preprocessed as in evaluation."""

    images: int
    same: int  # images with the same top-1 prediction
    worst: tuple[Disagreement, ...]  # different top-1 predictions first, then by `kl`


def compare(
    teacher: Network, student: nn.Module, images: Images, preprocess: Preprocess, device: torch.device
) -> PredictionComparison:
    """Compare the predictions of both networks for at most MAX_IMAGES images; both networks move to `device`."""
    pixels, names = images.pixels[:MAX_IMAGES], imagenet_names(teacher)
    teacher_log_probs, student_log_probs = (
        F.log_softmax(compute_logits(net, pixels, preprocess, device, _BATCH), 1) for net in (teacher.module, student)
    )
    differ = teacher_log_probs.argmax(1) != student_log_probs.argmax(1)
    kl = F.kl_div(student_log_probs, teacher_log_probs, reduction="none", log_target=True)
    kl = kl.sum(1).nan_to_num(float("inf"))
    order = sorted(range(len(pixels)), key=lambda i: (not differ[i], -float(kl[i])))[:MAX_SHOWN]
    worst = tuple(
        Disagreement(
            image=images.names[i],
            picture=thumbnail(center_crop(pixels[i : i + 1], preprocess)[0]),
            teacher=_prediction(teacher_log_probs[i], names),
            student=_prediction(student_log_probs[i], names),
            kl=min(float(kl[i]), 1e9),  # JSON has no infinity
        )
        for i in order
    )
    return PredictionComparison(len(pixels), len(pixels) - int(differ.sum()), worst)


def _prediction(log_probs: Tensor, names: tuple[str, ...]) -> Prediction:
    index = int(log_probs.argmax())
    probability = float(log_probs[index].exp().nan_to_num(0.0))
    return Prediction(index, names[index] if index < len(names) else None, probability)


def thumbnail(pixels: Tensor) -> str:
    """uint8 [channels, height, width] -> a small PNG as a data URI; if not RGB, only the first channel."""
    grey = len(pixels) != 3
    image = Image.fromarray(pixels[0].numpy() if grey else pixels.permute(1, 2, 0).numpy())
    image.thumbnail((_MAX_SIDE, _MAX_SIDE))
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def imagenet_names(network: Network) -> tuple[str, ...]:
    """The class names of a network pretrained on ImageNet; empty for all others."""
    pretrained = network.source in ("timm", "torchvision") and network.weights.origin is WeightsOrigin.PRETRAINED
    return class_names(network.num_classes, imagenet=pretrained) or ()
