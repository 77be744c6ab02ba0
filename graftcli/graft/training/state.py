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
NEGLIGIBLE_LOSS = 1e-3  # losses are about 1 if the student outputs zeros; a loss below this has not diverged


class LossAverage(TypedDict):
    """The running average of a task's loss, and its initial value, as JSON."""

    average: float
    at_start: float


@dataclass(frozen=True)
class LossTracker:
    """The running average of a task's loss, and its initial value.

    Both stay on the device of the loss, because reading them at every step would wait for the device.
    """

    running: Tensor | None = None  # over about the last fifty steps; None before the first step
    initial: Tensor | None = None

    def after(self, step: int, loss: Tensor) -> "LossTracker":
        """The tracker after a step with this loss."""
        value = loss.detach().to(_dtype(loss.device))
        running = value if self.running is None else 0.98 * self.running + 0.02 * value
        return LossTracker(running, running if step < _START_STEPS else self.initial)

    @classmethod
    def restored(cls, saved: LossAverage, device: torch.device) -> "LossTracker":
        """The tracker with the averages that `read` returned."""
        if math.isnan(saved["average"]):
            return cls()
        dtype = _dtype(device)
        running, initial = (torch.tensor(saved[key], dtype=dtype).to(device) for key in ("average", "at_start"))
        return cls(running, initial)

    def read(self) -> LossAverage:
        """Read the averages from the device; NaN before the first step."""
        average, at_start = (math.nan if value is None else float(value) for value in (self.running, self.initial))
        return {"average": average, "at_start": at_start}

    @property
    def average(self) -> float:
        """The running average, read from the device."""
        return self.read()["average"]

    def has_diverged(self, step: int, *values: float) -> bool:
        """Whether training has failed by this step; `values` are losses that are not in the average yet."""
        losses = self.read()
        averages = () if self.running is None else (losses["average"],)
        if not all(map(math.isfinite, (*values, *averages))):
            return True
        return step > 2 * _START_STEPS and losses["average"] > _DIVERGED * max(losses["at_start"], NEGLIGIBLE_LOSS)


def _dtype(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64


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
        parameters = dict(trainable.named_parameters())
        if self.ema:
            torch._foreach_lerp_(list(self.ema.values()), [parameters[name] for name in self.ema], share)
        self.ema |= {name: parameter.clone() for name, parameter in parameters.items() if name not in self.ema}

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
    loss: LossAverage
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
            "loss": train_state.loss.read(),
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
    loss = LossTracker.restored(facts["loss"], next(iter(devices.values()), torch.device("cpu")))
    return TrainState(facts["step"], loss, facts["halved"], ema, facts["factor"], scores)


def clone_tensors(state: T) -> T:
    """Copy a state of nested dicts and lists, with clones of its tensors; tuples become lists."""
    return cast(T, _cloned(state))  # a dict with the same keys


def _cloned(value: object) -> object:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _cloned(item) for key, item in value.items()}
    return [_cloned(item) for item in value] if isinstance(value, list | tuple) else value
