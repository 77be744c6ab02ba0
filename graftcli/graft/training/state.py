"""How far a task has come, and the states that it can go on from."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from graftcli.graft.training.judge import Score

_SETTLING = 20  # steps over which the loss at the start is averaged
_DIVERGED = 20.0  # a loss so many times the one at the start has run away
SMALL = 1e-3  # of losses that are 1 for an answer worth nothing: below it no loss has run away


@dataclass(frozen=True)
class LossTracker:
    """What is known of a task's loss so far."""

    average: float = math.nan  # over about the last fifty steps
    at_start: float = math.nan

    def after(self, step: int, value: float) -> "LossTracker":
        average = value if math.isnan(self.average) else 0.98 * self.average + 0.02 * value
        return LossTracker(average, average if step < _SETTLING else self.at_start)

    def has_run_away(self, step: int, value: float) -> bool:
        if not math.isfinite(value):
            return True
        return step > 2 * _SETTLING and self.average > _DIVERGED * max(self.at_start, SMALL)


@dataclass
class TrainState:
    """How far a task has come; what a resumed run needs beside weights and optimiser."""

    step: int = 0
    loss: LossTracker = field(default_factory=LossTracker)
    halved: bool = False
    slow: dict[str, Tensor] = field(default_factory=dict)  # averaged weights
    factor: float = 1.0  # of the rate
    scores: dict[int, Score] = field(default_factory=dict)  # by step, on views that nothing is trained on

    @torch.no_grad()
    def average(self, decay: float | None, moving: nn.Module) -> None:
        """The weights as they are, added to the averaged ones; at first these are hardly more than the last."""
        if decay is None:
            return
        share = 1 - min(decay, (1 + self.step) / (10 + self.step))
        for name, parameter in moving.named_parameters():
            if name in self.slow:
                self.slow[name].lerp_(parameter, share)
            else:
                self.slow[name] = parameter.clone()

    @contextmanager
    def averaged(self, moving: nn.Module) -> Iterator[None]:
        """Within it, the averaged weights in place of the last, where there are any."""
        last = {name: p.detach().clone() for name, p in moving.named_parameters() if name in self.slow}
        self.settle(moving)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in moving.named_parameters():
                    if name in last:
                        parameter.copy_(last[name])

    @torch.no_grad()
    def settle(self, moving: nn.Module) -> None:
        """The averaged weights in place of the last, where there are any."""
        for name, parameter in moving.named_parameters():
            if name in self.slow:
                parameter.copy_(self.slow[name])


def state_of(moving: nn.Module, optimiser: torch.optim.Optimizer, train_state: TrainState) -> dict[str, Any]:
    """A copy of everything that the task goes on from."""
    parts = {"weights": moving.state_dict(), "optimiser": optimiser.state_dict(), "slow": train_state.slow}
    facts = {
        "step": train_state.step,
        "loss": asdict(train_state.loss),
        "halved": train_state.halved,
        "factor": train_state.factor,
    }
    facts["scores"] = {str(step): asdict(score) for step, score in train_state.scores.items()}
    return {**copied(parts), "course": facts}


def restore(state: dict[str, Any] | None, moving: nn.Module, optimiser: torch.optim.Optimizer) -> TrainState:
    """Weights and optimiser as the state has them, and how far it had come; the state itself stays as it is."""
    if state is None:
        return TrainState()
    own = copied(state)
    moving.load_state_dict(own["weights"])
    optimiser.load_state_dict(own["optimiser"])
    devices = {name: parameter.device for name, parameter in moving.named_parameters()}
    slow = {name: tensor.to(devices[name]) for name, tensor in own["slow"].items()}  # what was read lies on the CPU
    train_state = own["course"]
    scores = {int(step): Score(**score) for step, score in train_state["scores"].items()}
    return TrainState(
        train_state["step"],
        LossTracker(**train_state["loss"]),
        train_state["halved"],
        slow,
        train_state["factor"],
        scores,
    )


def copied(value: Any) -> Any:
    """A nest of dicts and lists with clones of its tensors."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    return [copied(item) for item in value] if isinstance(value, list | tuple) else value
