"""Train and eval mode of BatchNorm and dropout during training."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm as AnyBatchNorm

from graftcli.distributed.data_parallel import synchronised
from graftcli.distributed.world import SINGLE, World
from graftcli.recipe import Stage


@contextmanager
def training_mode(stage: Stage, trainable: nn.Module, world: World = SINGLE) -> Iterator[None]:
    """Put dropout and BatchNorm of `trainable` in the modes that the stage sets; restore eval mode on exit.

    Each batch is divided among the processes of `world`.
    """
    trainable.train(stage.dropout)
    for norm in batchnorms(trainable):
        norm.train(stage.batchnorm == "train")
    try:
        with synchronised(world, batchnorms(trainable)):
            yield
    finally:
        trainable.eval()


def batchnorms(module: nn.Module) -> list[AnyBatchNorm]:
    """The BatchNorms of a module, of any number of dimensions."""
    return [m for m in module.modules() if isinstance(m, AnyBatchNorm)]


@torch.no_grad()
def recalibrate(trainable: nn.Module, batches: int, forward: Callable[[int], object], world: World = SINGLE) -> None:
    """Re-estimate the BatchNorm statistics: plain averages over the batches that `forward(number)` runs."""
    norms = batchnorms(trainable)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with synchronised(world, norms):
        for number in range(batches):
            forward(number)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
