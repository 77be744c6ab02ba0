"""Optimisers, learning rates per parameter group, and learning-rate schedules."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from graftcli.graft.surgery.seams import Adapter
from graftcli.graft.training.muon import Muon
from graftcli.graft.training.tasks import Task
from graftcli.recipe import Stage, nth


@dataclass(frozen=True)
class LayerRate:
    """Parameters that share a learning rate."""

    parameters: list[nn.Parameter]
    value: float


def rates_of(task: Task, trainable: nn.Module, images: int) -> dict[str, LayerRate]:
    """Return the parameters and learning rates of the blocks and the adapters, scaled by the batch size if asked."""
    stage = task.stage
    scale = task.batch(images) / stage.lr_scale_with_batch if stage.lr_scale_with_batch is not None else 1.0
    adapters = {id(p): p for m in trainable.modules() if isinstance(m, Adapter) for p in m.parameters()}
    others = {id(p): p for p in trainable.parameters() if id(p) not in adapters}
    rate = rate_of(task)
    adapter_rate = nth(stage.adapter_lr, task.unit) if stage.adapter_lr is not None else rate
    rates = {"blocks": LayerRate(list(others.values()), rate * scale)}
    if adapters:
        rates["adapters"] = LayerRate(list(adapters.values()), adapter_rate * scale)
    return rates


def rate_of(task: Task) -> float:
    """Return the recipe's learning rate for the task's blocks."""
    assert task.stage.lr is not None  # only least-squares stages have none
    return nth(task.stage.lr, task.unit)


def optimiser_of(stage: Stage, rates: dict[str, LayerRate]) -> torch.optim.Optimizer:
    """Make the stage's optimiser, and enable gradients for its parameters."""
    groups = [{"params": rate.parameters, "lr": rate.value} for rate in rates.values()]
    for rate in rates.values():
        for parameter in rate.parameters:
            parameter.requires_grad_(True)
    fused = all(parameter.device.type == "cuda" for rate in rates.values() for parameter in rate.parameters) or None
    if stage.optimizer == "sgd":
        momentum = stage.momentum or 0.0
        return torch.optim.SGD(groups, momentum=momentum, weight_decay=stage.weight_decay, fused=fused)
    if stage.optimizer == "muon":
        return Muon(groups, momentum=stage.momentum or 0.0, weight_decay=stage.weight_decay)
    kind = torch.optim.Adam if stage.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, betas=stage.betas or (0.9, 0.999), weight_decay=stage.weight_decay, fused=fused)


def factor_at(stage: Stage, step: int, steps: int) -> float:
    """Return the factor of the learning rate at a step: linear warmup, then the stage's schedule."""
    warmup = round(stage.warmup * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    share = (step - warmup) / max(1, steps - warmup)
    if stage.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * share))
    return 0.1 ** sum(share >= at for at in stage.step_at or ()) if stage.schedule == "step" else 1.0
