"""The factor of its rate that a task is trained with: a few short trials, judged on views that nothing is trained on.

What suits a student that has much to learn ruins one that is already near its teacher.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from graftcli.graft.backend.batchnorm import trained_as
from graftcli.graft.training.judge import Score
from graftcli.graft.training.state import copied
from graftcli.graft.training.tasks import Task
from graftcli.graft.training.trainer import BlockTrainer, TrainContext
from graftcli.recipe import Stage

_SHARE, _FEWEST = 0.02, 6  # of a task's steps that a trial takes, and how many it takes at least
_SHORT = 100  # steps of a task that has no time for trials


class _Fresh:
    """A trial keeps no state."""

    state: dict[str, Any] | None = None

    def keep(self, step: int, state: dict[str, Any]) -> None: ...


def trial_steps(stage: Stage, steps: int) -> int:
    """How many steps each trial has; none where there is nothing to choose, or a task of `steps` is too short."""
    return max(_FEWEST, round(_SHARE * steps)) if len(stage.lr_factors or ()) > 1 and steps >= _SHORT else 0


def with_trials(stage: Stage, steps: int) -> int:
    """The steps of a task, its trials included."""
    return steps + len(stage.lr_factors or ()) * trial_steps(stage, steps)


def best_factor(task: Task, context: TrainContext, moving: nn.Module, measure: Callable[[], Score]) -> float | None:
    """Of the recipe's factors the one after whose trial the student's answers are nearest to the teacher's.

    Of equal ones it is the first; of trials that all ruin the network, the smallest. None where the task is too short
    for trials. The weights are as before.
    """
    factors, steps = task.stage.lr_factors or (1.0,), trial_steps(task.stage, task.steps(context.images))
    if not steps:
        return factors[0] if len(factors) == 1 else None
    start, found = copied(moving.state_dict()), []
    for factor in factors:
        _run(task, context, steps, factor)
        found.append(measure().kl)
        moving.load_state_dict(start)
    if not any(map(math.isfinite, found)):
        return min(factors)
    return factors[found.index(min(kl for kl in found if math.isfinite(kl)))]


def _run(task: Task, context: TrainContext, steps: int, factor: float) -> None:
    """The task in so few steps, its schedule as a whole."""
    stage = task.stage.model_copy(update={"steps": (steps,), "epochs": None, "batch": task.batch(context.images)})
    context = replace(
        context, precision=replace(context.precision, compile=False)
    )  # which would take longer than a trial
    training = BlockTrainer(replace(task, stage=stage.model_copy(update={"ema": None})), context, _Fresh(), factor)
    with trained_as(stage, training.moving):
        for _ in range(steps):
            training.step(training.error())
