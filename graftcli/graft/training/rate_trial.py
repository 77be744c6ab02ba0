"""Chooses the factor of a task's learning rate by short trials: the highest that lowers the loss.

A learning rate that suits a student far from its teacher is harmful to one that is close. Short trials favour low
rates, but long training profits from high ones; so the highest harmless rate is chosen. The loss is that of the task,
on views that no task trains on. The KL divergence of the logits is not used: from random weights, it rises at first.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from graftcli.graft.backend.batchnorm import training_mode
from graftcli.graft.training.judge import Watch
from graftcli.graft.training.state import clone_tensors
from graftcli.graft.training.tasks import Task
from graftcli.graft.training.trainer import BlockTrainer, TrainContext
from graftcli.recipe import Stage

_SHARE, _MIN_STEPS = 0.02, 6  # share of a task's steps in each trial, and the minimum number
_MIN_TASK_STEPS = 100  # shorter tasks have no trials


class _NoStore:
    """A TaskStore that keeps nothing."""

    state: Mapping[str, object] | None = None

    def keep(self, step: int, state: Mapping[str, object]) -> None: ...


def trial_steps(stage: Stage, steps: int) -> int:
    """Return the steps of each trial for a task of `steps` steps; 0 if there are no trials."""
    has_trials = len(stage.lr_factors or ()) > 1 and steps >= _MIN_TASK_STEPS
    return max(_MIN_STEPS, round(_SHARE * steps)) if has_trials else 0


def with_trials(stage: Stage, steps: int) -> int:
    """Return the steps of a task including its trials."""
    return steps + len(stage.lr_factors or ()) * trial_steps(stage, steps)


def best_factor(task: Task, context: TrainContext, trainable: nn.Module, watch: Watch) -> float | None:
    """Return the highest of the recipe's factors whose trial lowers the loss. The weights are restored.

    If none does, it is the one with the lowest loss; if no trial ends with a finite loss, the smallest. None if the
    task is too short for trials.
    """
    factors, steps = task.stage.lr_factors or (1.0,), trial_steps(task.stage, task.steps(context.images))
    if not steps:
        return factors[0] if len(factors) == 1 else None
    start, losses = clone_tensors(trainable.state_dict()), list[float]()
    for factor in factors:
        _run(task, context, steps, factor)
        loss = watch.measure().loss
        losses.append(math.nan if loss is None else loss)
        trainable.load_state_dict(start)
    finite = [(loss, factor) for loss, factor in zip(losses, factors, strict=True) if math.isfinite(loss)]
    before = watch.before.loss
    lowering = [factor for loss, factor in finite if before is not None and loss < before]
    if lowering:
        return max(lowering)
    return min(finite)[1] if finite else min(factors)


def _run(task: Task, context: TrainContext, steps: int, factor: float) -> None:
    """Run the task with its whole schedule compressed into `steps` steps."""
    stage = task.stage.model_copy(update={"steps": (steps,), "epochs": None, "batch": task.batch(context.images)})
    context = replace(context, precision=replace(context.precision, compile=False))  # takes longer than the trial
    trainer = BlockTrainer(replace(task, stage=stage.model_copy(update={"ema": None})), context, _NoStore(), factor)
    with training_mode(stage, trainer.trainable, context.world):
        for _ in range(steps):
            trainer.step(trainer.compute_loss())
