"""The only training loop."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from graftcli.errors import GateError
from graftcli.events import Began, Listener, Stepped, Warned
from graftcli.graft.answers import Answers
from graftcli.graft.seams import Adapter
from graftcli.graft.stages import Grafted, Pieces, Task, loss, moving_modules, wanted
from graftcli.recipe import Stage, nth

_KEEP_EVERY = 8.0  # seconds between two states that a resumed run goes on from
_TELL_EVERY = 0.2  # seconds between two events
_SETTLING = 20  # steps over which the loss at the start is averaged
_DIVERGED = 20.0  # a loss so many times the one at the start has run away


class Unit(Protocol):
    """Where a task keeps its state; the store has one for each task."""

    @property
    def state(self) -> dict[str, Any] | None: ...
    def keep(self, step: int, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Precision:
    device: torch.device
    amp: bool = False
    compile: bool = False


@dataclass
class Course:
    """How far a task has come; what a resumed run needs beside weights and optimiser."""

    step: int = 0
    average: float = math.nan  # of the loss, over about the last fifty steps
    at_start: float = math.nan
    halved: bool = False
    slow: dict[str, Tensor] = field(default_factory=dict)  # averaged weights


def fit(
    task: Task, pieces: Pieces, answers: Answers, images: int, seed: int, how: Precision, unit: Unit, listen: Listener
) -> float:
    """Train the task's blocks; they end with the last or the averaged weights. Returns the last average of the loss."""
    training = _Training(task, pieces, answers, images, seed, how, unit)
    stage, steps, course = task.stage, training.steps, training.course
    listen(Began(stage.name, task.first, task.last, course.step, steps, 0, 0))
    kept_at = told_at = time.monotonic()
    seen = 0
    with _modes(training.moving, stage):
        while training.course.step < steps:
            error = training.error()
            if _has_diverged(float(error.detach()), training.course):
                training.turn_back(float(error.detach()), listen)
                continue
            training.step(error)
            course, seen, now = training.course, seen + training.batch, time.monotonic()
            if now - kept_at > _KEEP_EVERY and course.step < steps:
                training.keep()
                kept_at = time.monotonic()
            if now - told_at > _TELL_EVERY or course.step == steps:
                speed = seen / max(now - told_at, 1e-9)
                listen(Stepped(stage.name, task.first, task.last, course.step, steps, course.average, speed))
                told_at, seen = now, 0
    _use_average(training.moving, training.course)
    if stage.batchnorm == "recalibrate":
        _recalibrate(training.grafted, training.moving, answers, task, training.order)
    return training.course.average


class _Training:
    """One task under way: what is trained, by what, and how far it has come."""

    def __init__(
        self, task: Task, pieces: Pieces, answers: Answers, images: int, seed: int, how: Precision, unit: Unit
    ) -> None:
        self.task, self.pieces, self.answers, self.how, self.unit = task, pieces, answers, how, unit
        self.steps, self.batch = task.steps(images), task.batch(images)
        self.grafted = Grafted(pieces, task).to(how.device)
        self.moving = nn.ModuleList(moving_modules(task, pieces))
        self.rates = _rates(task, self.moving, images)
        self.optimiser = _optimiser(task.stage, self.rates)
        self.course = _restore(unit.state, self.moving, self.optimiser)
        self.order = _Order(len(answers.views), self.batch, seed, task.name)
        self.targets = wanted(task, pieces, with_input=False)
        self.good = _snapshot(self.moving, self.optimiser, self.course)
        self._run = torch.compile(self.grafted) if how.compile else self.grafted

    def error(self) -> Tensor:
        """The loss on the views of the step at hand."""
        index = self.order.at(self.course.step)
        given_in = self.answers.at(self.task.first - 1, index)
        with torch.autocast(self.how.device.type, torch.bfloat16, enabled=self.how.amp):
            given = self._run(given_in, self.targets)
        return loss(self.task, self.pieces, given, {value: self.answers.at(value, index) for value in self.targets})

    def step(self, error: Tensor) -> None:
        stage, course = self.task.stage, self.course
        share = _factor(stage, course.step, self.steps) * (0.5 if course.halved else 1.0)
        for group, rate in zip(self.optimiser.param_groups, self.rates.values(), strict=True):
            group["lr"] = rate.value * share
        self.optimiser.zero_grad(set_to_none=True)
        error.backward()
        if stage.clip is not None:
            nn.utils.clip_grad_norm_(self.moving.parameters(), stage.clip)
        self.optimiser.step()
        _average(stage, self.moving, course)
        value = float(error.detach())
        course.step += 1
        course.average = value if math.isnan(course.average) else 0.98 * course.average + 0.02 * value
        course.at_start = course.average if course.step <= _SETTLING else course.at_start

    def keep(self) -> None:
        self.good = _snapshot(self.moving, self.optimiser, self.course)
        self.unit.keep(self.course.step, self.good)

    def turn_back(self, value: float, listen: Listener) -> None:
        """To the last good state with half the rate, once."""
        name, at, stage = self.task.name, self.course.step, self.task.stage
        if self.course.halved:
            raise GateError(
                f"{name}: the loss ran away again at step {at} ({value:.3g}), with half the rate too.",
                f"Give the stage a lower rate: --set stages.{stage.name}.lr={nth(stage.lr, self.task.unit) / 10:g}.",
            )
        listen(Warned(f"{name}: the loss ran away at step {at} ({value:.3g}); once more with half the rate"))
        self.course = _restore(_copied(self.good), self.moving, self.optimiser)
        self.course.halved = True


# -- optimisers and rates -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rate:
    parameters: list[nn.Parameter]
    value: float


def _rates(task: Task, moving: nn.Module, images: int) -> dict[str, Rate]:
    """The blocks' parameters and the adapters', each with its rate, and the batch that the rates are meant for."""
    stage = task.stage
    scale = task.batch(images) / stage.lr_scale_with_batch if stage.lr_scale_with_batch is not None else 1.0
    adapters = {id(p): p for m in moving.modules() if isinstance(m, Adapter) for p in m.parameters()}
    others = {id(p): p for p in moving.parameters() if id(p) not in adapters}
    rate = nth(stage.lr, task.unit)
    adapter_rate = nth(stage.adapter_lr, task.unit) if stage.adapter_lr is not None else rate
    found = {"blocks": Rate(list(others.values()), rate * scale)}
    if adapters:
        found["adapters"] = Rate(list(adapters.values()), adapter_rate * scale)
    return found


def _optimiser(stage: Stage, rates: dict[str, Rate]) -> torch.optim.Optimizer:
    groups = [{"params": rate.parameters, "lr": rate.value} for rate in rates.values()]
    for rate in rates.values():
        for parameter in rate.parameters:
            parameter.requires_grad_(True)
    if stage.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=stage.momentum or 0.0, weight_decay=stage.weight_decay)
    kind = torch.optim.Adam if stage.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, betas=stage.betas or (0.9, 0.999), weight_decay=stage.weight_decay)


def _factor(stage: Stage, step: int, steps: int) -> float:
    """The share of the rate at a step: a linear rise, then the schedule over what is left."""
    rise = round(stage.warmup * steps)
    if step < rise:
        return (step + 1) / (rise + 1)
    share = (step - rise) / max(1, steps - rise)
    if stage.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * share))
    return 0.1 ** sum(share >= at for at in stage.step_at or ()) if stage.schedule == "step" else 1.0


# -- which views --------------------------------------------------------------------------------------------------


class _Order:
    """The views in an order that depends on seed, task and step alone; all are seen before one is seen again."""

    def __init__(self, views: int, batch: int, seed: int, name: str) -> None:
        self.views, self.batch = views, batch
        self.seed = seed * 1_000_003 + sum(ord(c) * 257**i for i, c in enumerate(name)) % 2**31
        self._round = -1
        self._order = torch.empty(0, dtype=torch.long)

    def at(self, step: int) -> Tensor:
        per_round = max(1, self.views // self.batch)
        number, place = divmod(step, per_round)
        if number != self._round:
            self._order = torch.randperm(self.views, generator=torch.Generator().manual_seed(self.seed + number))
            self._round = number
        return self._order[place * self.batch : (place + 1) * self.batch]


# -- BatchNorm and dropout ----------------------------------------------------------------------------------------


class _modes:
    """Within it, what the stage trains is in train mode as the stage says; outside, everything is in eval mode."""

    def __init__(self, moving: nn.Module, stage: Stage) -> None:
        self.moving, self.stage = moving, stage

    def __enter__(self) -> None:
        self.moving.train(self.stage.dropout)
        for norm in batchnorms(self.moving):
            norm.train(self.stage.batchnorm == "train")

    def __exit__(self, *_: object) -> None:
        self.moving.eval()


def batchnorms(module: nn.Module) -> Iterator[nn.Module]:
    return (m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))


@torch.no_grad()
def _recalibrate(grafted: Grafted, moving: nn.Module, answers: Answers, task: Task, order: _Order) -> None:
    """BatchNorm statistics measured anew with the trained weights: plain averages over a few hundred views."""
    norms = [n for n in batchnorms(moving) if isinstance(n, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    for step in range(max(1, min(len(answers.views) // order.batch, 16))):
        grafted(answers.at(task.first - 1, order.at(step)), {task.last})
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


# -- averages, states, divergence ---------------------------------------------------------------------------------


@torch.no_grad()
def _average(stage: Stage, moving: nn.Module, course: Course) -> None:
    if stage.ema is None:
        return
    decay = min(stage.ema, (1 + course.step) / (10 + course.step))
    for name, parameter in moving.named_parameters():
        if name in course.slow:
            course.slow[name].lerp_(parameter, 1 - decay)
        else:
            course.slow[name] = parameter.clone()


@torch.no_grad()
def _use_average(moving: nn.Module, course: Course) -> None:
    for name, parameter in moving.named_parameters():
        if name in course.slow:
            parameter.copy_(course.slow[name])


def _snapshot(moving: nn.Module, optimiser: torch.optim.Optimizer, course: Course) -> dict[str, Any]:
    return {
        "weights": {name: t.detach().clone() for name, t in moving.state_dict().items()},
        "optimiser": _copied(optimiser.state_dict()),
        "course": {
            "step": course.step,
            "average": course.average,
            "at_start": course.at_start,
            "halved": course.halved,
        },
        "slow": {name: t.clone() for name, t in course.slow.items()},
    }


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list | tuple) else value


def _restore(state: dict[str, Any] | None, moving: nn.Module, optimiser: torch.optim.Optimizer) -> Course:
    if state is None:
        return Course()
    moving.load_state_dict(state["weights"])
    optimiser.load_state_dict(state["optimiser"])
    return Course(**state["course"], slow={name: t.clone() for name, t in state["slow"].items()})


def _has_diverged(value: float, course: Course) -> bool:
    if not math.isfinite(value):
        return True
    return course.step > 2 * _SETTLING and course.average > _DIVERGED * max(course.at_start, 1e-12)
