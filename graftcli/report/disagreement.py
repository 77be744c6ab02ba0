"""The images to which teacher and student answer most differently, as pictures with both answers."""

import base64
import io
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from graftcli.images import Images
from graftcli.images.labels import class_names
from graftcli.images.pixels import Preprocess, centre
from graftcli.measure import logits
from graftcli.models.network import Network

MOST_IMAGES = 512  # that are asked about: they lie in the order of their hashes, so the first are as good as any
SHOWN = 18
_SIDE = 96  # pixels of a picture's longer side, at most
_BATCH = 32


@dataclass(frozen=True)
class Answer:
    index: int
    name: str | None  # of the class, where it is known
    share: float  # the network's own probability


@dataclass(frozen=True)
class Differing:
    image: str  # its file's name
    picture: str  # a data URI of what the networks saw
    teacher: Answer
    student: Answer
    kl: float  # KL(teacher || student), in nats


@dataclass(frozen=True)
class AnswersCompared:
    """The answers of both networks to images as they are evaluated."""

    images: int
    same: int  # with the same first answer
    worst: tuple[Differing, ...]  # other first answers before equal ones, then by `kl`


def compare(
    teacher: Network, result: nn.Module, images: Images, preprocess: Preprocess, where: torch.device
) -> AnswersCompared:
    """What both answer to the images, or to the first MOST_IMAGES of them; both networks end up on the device."""
    pixels, names = images.pixels[:MOST_IMAGES], named(teacher)
    ours, theirs = (
        F.log_softmax(logits(net, pixels, preprocess, where, _BATCH), 1) for net in (teacher.module, result)
    )
    differ = ours.argmax(1) != theirs.argmax(1)
    kl = F.kl_div(theirs, ours, reduction="none", log_target=True).sum(1).nan_to_num(float("inf"))
    order = sorted(range(len(pixels)), key=lambda i: (not differ[i], -float(kl[i])))[:SHOWN]
    worst = tuple(
        Differing(
            image=images.names[i],
            picture=picture(centre(pixels[i : i + 1], preprocess)[0]),
            teacher=_answer(ours[i], names),
            student=_answer(theirs[i], names),
            kl=min(float(kl[i]), 1e9),  # JSON knows no infinity
        )
        for i in order
    )
    return AnswersCompared(len(pixels), len(pixels) - int(differ.sum()), worst)


def _answer(log_shares: Tensor, names: tuple[str, ...]) -> Answer:
    index = int(log_shares.argmax())
    share = float(log_shares[index].exp().nan_to_num(0.0))
    return Answer(index, names[index] if index < len(names) else None, share)


def picture(pixels: Tensor) -> str:
    """uint8 [channels, height, width] -> a small PNG as a data URI; what is neither grey nor RGB shows one channel."""
    grey = len(pixels) != 3
    image = Image.fromarray(pixels[0].numpy() if grey else pixels.permute(1, 2, 0).numpy())
    image.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def named(network: Network) -> tuple[str, ...]:
    """What a network's answers mean, where it is one of ImageNet's; a stranger's classes have no names here."""
    ours = network.source in ("timm", "torchvision") and network.weights.startswith("pretrained")
    return class_names(network.num_classes, imagenet=ours) or ()
