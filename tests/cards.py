"""Shared by tests: saved networks and the facts of their model cards."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from graftcli.images.pixels import Preprocess
from graftcli.models.loading.build import build
from graftcli.models.network import Network
from graftcli.store.model_card import CardFacts
from tests.nets import randomise

PREPROCESS = Preprocess(
    size=(64, 64), channels=3, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), crop_pct=0.9, interpolation="bilinear"
)


NUMBERS: dict[str, int | float | str | None] = {
    "parameters": 11_176_512,
    "agreement on 8 held-out images": 0.98765,
    "size": "44.7 MB",
    "unknown": None,
}


def network(spec: str, channels: int = 3) -> Network:
    net = build(spec, checkpoint="none", num_classes=7, img_size=PREPROCESS.size, in_chans=channels)
    randomise(net.module)
    return net


def made(net: Network, teacher: Network | None = None, **changes: Any) -> CardFacts:
    channels = net.input_size[0]
    preprocess = replace(PREPROCESS, channels=channels, mean=PREPROCESS.mean[:channels], std=PREPROCESS.std[:channels])
    facts = CardFacts(
        (teacher or net).origin, net.origin, preprocess, "graft", 1000, "graftcli distill --teacher a", NUMBERS
    )
    return replace(facts, **changes)


def answers(net: nn.Module, channels: int = 3) -> Tensor:
    with torch.no_grad():
        result: Tensor = net(images(channels))
    return result


def images(channels: int) -> Tensor:
    return torch.linspace(-1, 1, 2 * channels * 64 * 64).reshape(2, channels, 64, 64)
