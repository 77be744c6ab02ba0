"""BatchNorm and dropout while something is trained."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm as AnyBatchNorm

from graftcli.recipe import Stage


@contextmanager
def trained_as(stage: Stage, moving: nn.Module) -> Iterator[None]:
    """Within it, what the stage trains is in train mode as the stage says; outside, everything is in eval mode."""
    moving.train(stage.dropout)
    for norm in batchnorms(moving):
        norm.train(stage.batchnorm == "train")
    try:
        yield
    finally:
        moving.eval()


def batchnorms(module: nn.Module) -> list[AnyBatchNorm]:
    return [m for m in module.modules() if isinstance(m, AnyBatchNorm)]


@torch.no_grad()
def recalibrate(moving: nn.Module, passes: int, show: Callable[[int], object]) -> None:
    """Measure the statistics anew with the weights as they are: plain averages over what `show(pass)` shows."""
    norms = batchnorms(moving)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    for number in range(passes):
        show(number)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
