"""The state of a task in training: saving, restoring, and weight averaging."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, TypedDict, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.optim.optimizer import StateDict

from graftcli.graft.training.judge import Score

T = TypeVar("T", bound=Mapping[str, object])

_START_STEPS = 20  # steps over which the initial loss is averaged
_DIVERGED = 20.0  # a loss above this multiple of the initial loss has diverged
NEGLIGIBLE_LOSS = 1e-3  # losses are about 1 for outputs of zeros; a loss below this has not diverged


@dataclass(frozen=True)
class LossTracker:
    """The running average of a task's loss, and its initial value."""

    average: float = math.nan  # over about the last fifty steps
    at_start: float = math.nan

    def after(self, step: int, value: float) -> "LossTracker":
        """The tracker after a step with this loss."""
        average = value if math.isnan(self.average) else 0.98 * self.average + 0.02 * value
        return LossTracker(average, average if step < _START_STEPS else self.at_start)

    def has_diverged(self, step: int, value: float) -> bool:
        """Whether training has failed at a step with this loss."""
        if not math.isfinite(value):
            return True
        return step > 2 * _START_STEPS and self.average > _DIVERGED * max(self.at_start, NEGLIGIBLE_LOSS)


@dataclass
class TrainState:
    """The progress of a task: what a resumed run needs besides the weights and the optimiser."""

    step: int = 0
    loss: LossTracker = field(default_factory=LossTracker)
    halved: bool = False  # whether the learning rate was halved after a divergence
    ema: dict[str, Tensor] = field(default_factory=dict)  # the moving average of the weights
    factor: float = 1.0  # of the learning rate
    scores: dict[int, Score] = field(default_factory=dict)  # by step, on views that are not trained on

    @torch.no_grad()
    def average(self, decay: float | None, trainable: nn.Module) -> None:
        """Update the moving average of the weights; the first steps use a smaller decay."""
        if decay is None:
            return
        share = 1 - min(decay, (1 + self.step) / (10 + self.step))
        for name, parameter in trainable.named_parameters():
            if name in self.ema:
                self.ema[name].lerp_(parameter, share)
            else:
                self.ema[name] = parameter.clone()

    @contextmanager
    def averaged(self, trainable: nn.Module) -> Iterator[None]:
        """Use the averaged weights, if there are any, within the context."""
        last = {name: p.detach().clone() for name, p in trainable.named_parameters() if name in self.ema}
        self.use_average(trainable)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in trainable.named_parameters():
                    if name in last:
                        parameter.copy_(last[name])

    @torch.no_grad()
    def use_average(self, trainable: nn.Module) -> None:
        """Copy the averaged weights, if there are any, into the module."""
        for name, parameter in trainable.named_parameters():
            if name in self.ema:
                parameter.copy_(self.ema[name])


class _Course(TypedDict):
    """The progress of a task, as JSON."""

    step: int
    loss: dict[str, float]
    halved: bool
    factor: float
    scores: dict[str, dict[str, Any]]  # the fields of each Score, by step


class TaskState(TypedDict):
    """Everything that a task needs to resume. The keys are those of the state file."""

    weights: dict[str, Tensor]
    optimiser: StateDict
    slow: dict[str, Tensor]
    course: _Course


def state_of(trainable: nn.Module, optimiser: torch.optim.Optimizer, train_state: TrainState) -> TaskState:
    """Copy everything that a task needs to resume."""
    return {
        "weights": clone_tensors(trainable.state_dict()),
        "optimiser": clone_tensors(optimiser.state_dict()),
        "slow": clone_tensors(train_state.ema),
        "course": {
            "step": train_state.step,
            "loss": asdict(train_state.loss),
            "halved": train_state.halved,
            "factor": train_state.factor,
            "scores": {str(step): asdict(score) for step, score in train_state.scores.items()},
        },
    }


def restore(state: Mapping[str, object] | None, trainable: nn.Module, optimiser: torch.optim.Optimizer) -> TrainState:
    """Load a state, which is not modified, into the weights and the optimiser, and return the progress."""
    if state is None:
        return TrainState()
    copy = clone_tensors(cast(TaskState, state))  # the store returns what `state_of` has made
    trainable.load_state_dict(copy["weights"])
    optimiser.load_state_dict(copy["optimiser"])
    devices = {name: parameter.device for name, parameter in trainable.named_parameters()}
    ema = {name: tensor.to(devices[name]) for name, tensor in copy["slow"].items()}  # tensors of a file are on the CPU
    facts = copy["course"]
    scores = {int(step): Score(**score) for step, score in facts["scores"].items()}
    return TrainState(facts["step"], LossTracker(**facts["loss"]), facts["halved"], ema, facts["factor"], scores)


def clone_tensors(state: T) -> T:
    """Copy a state of nested dicts and lists, with clones of its tensors; tuples become lists."""
    return cast(T, _cloned(state))  # a dict with the same keys


def _cloned(value: object) -> object:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _cloned(item) for key, item in value.items()}
    return [_cloned(item) for item in value] if isinstance(value, list | tuple) else value
