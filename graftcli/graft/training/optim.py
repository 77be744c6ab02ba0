"""What moves the weights: an optimiser over the blocks and the adapters, and how their rates go over a task's steps."""

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
    parameters: list[nn.Parameter]
    value: float


def rates_of(task: Task, moving: nn.Module, images: int) -> dict[str, LayerRate]:
    """The blocks' parameters and the adapters', each with its rate, and the batch that the rates are meant for."""
    stage = task.stage
    scale = task.batch(images) / stage.lr_scale_with_batch if stage.lr_scale_with_batch is not None else 1.0
    adapters = {id(p): p for m in moving.modules() if isinstance(m, Adapter) for p in m.parameters()}
    others = {id(p): p for p in moving.parameters() if id(p) not in adapters}
    rate = rate_of(task)
    adapter_rate = nth(stage.adapter_lr, task.unit) if stage.adapter_lr is not None else rate
    found = {"blocks": LayerRate(list(others.values()), rate * scale)}
    if adapters:
        found["adapters"] = LayerRate(list(adapters.values()), adapter_rate * scale)
    return found


def rate_of(task: Task) -> float:
    """The rate of the task's blocks, as the recipe has it."""
    assert task.stage.lr is not None  # only least squares has none
    return nth(task.stage.lr, task.unit)


def optimiser_of(stage: Stage, rates: dict[str, LayerRate]) -> torch.optim.Optimizer:
    groups = [{"params": rate.parameters, "lr": rate.value} for rate in rates.values()]
    for rate in rates.values():
        for parameter in rate.parameters:
            parameter.requires_grad_(True)
    if stage.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=stage.momentum or 0.0, weight_decay=stage.weight_decay)
    if stage.optimizer == "muon":
        return Muon(groups, momentum=stage.momentum or 0.0, weight_decay=stage.weight_decay)
    kind = torch.optim.Adam if stage.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, betas=stage.betas or (0.9, 0.999), weight_decay=stage.weight_decay)


def factor_at(stage: Stage, step: int, steps: int) -> float:
    """The share of the rate at a step: a linear rise, then the schedule over what is left."""
    rise = round(stage.warmup * steps)
    if step < rise:
        return (step + 1) / (rise + 1)
    share = (step - rise) / max(1, steps - rise)
    if stage.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * share))
    return 0.1 ** sum(share >= at for at in stage.step_at or ()) if stage.schedule == "step" else 1.0
