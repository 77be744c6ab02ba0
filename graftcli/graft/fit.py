"""The only training loop."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from graftcli.errors import GateError
from graftcli.events import Began, Listener, Stepped, Warned
from graftcli.graft.answers import Answers
from graftcli.graft.course import SMALL, restore, state_of
from graftcli.graft.norms import recalibrate, trained_as
from graftcli.graft.order import Order
from graftcli.graft.solver import factor_at, optimiser_of, rates_of
from graftcli.graft.stages import Grafted, Pieces, Task, loss, moving_modules, wanted
from graftcli.recipe import nth

_KEEP_EVERY = 8.0  # seconds between two states that a resumed run goes on from
_TELL_EVERY = 0.2  # seconds between two events
_MARKS = 50  # in each task: steps at which its state is copied and its loss is noted
_RECALIBRATING = 16  # batches on which BatchNorm statistics are measured anew


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


@dataclass(frozen=True)
class Material:
    """What every task is trained with."""

    pieces: Pieces
    answers: Answers
    images: int
    seed: int
    how: Precision


def fit(
    task: Task, material: Material, unit: Unit, listen: Listener, note: Callable[[int, float], None] = lambda *_: None
) -> float:
    """Train the task's blocks; they end with the last or the averaged weights. Returns the last average of the loss.

    `note` is told the loss at the same steps whenever the run is broken off; `listen` at moments that please the eye.
    """
    training, pace = _Training(task, material, unit), _Pace()
    stage, steps = task.stage, training.steps
    marked = training.course.step
    listen(Began(stage.name, task.first, task.last, marked, steps, 0, 0))
    with trained_as(stage, training.moving):
        while training.course.step < steps or not training.is_finite():
            course = training.course
            # at a mark and nowhere else: where a diverging run turns back to must not depend on the clock
            at_mark = course.step % max(1, steps // _MARKS) == 0 and course.step != marked
            # before the loss, whose forward pass moves the statistics of a BatchNorm that is trained
            state = training.state() if at_mark else None
            error = training.error()
            if course.step == steps or course.loss.has_run_away(course.step, float(error.detach())):
                training.turn_back(float(error.detach()), listen)
                continue
            if state is not None:
                note(course.step, course.loss.average)
                training.mark(state)
                if pace.keeps():
                    training.keep()
                marked = course.step
            training.step(error)
            if (speed := pace.tells(training.batch, at_once=course.step == steps)) is not None:
                listen(Stepped(stage.name, task.first, task.last, course.step, steps, course.loss.average, speed))
    training.course.settle(training.moving)
    if stage.batchnorm == "recalibrate":
        passes = max(1, min(len(material.answers.views) // training.batch, _RECALIBRATING))
        recalibrate(training.moving, passes, training.show)
    return training.course.loss.average


class _Pace:
    """When a state is kept and when an event is told: by the clock, on which no number of the result depends."""

    def __init__(self) -> None:
        self.kept = self.marked = self.told = time.monotonic()
        self.seen = 0

    def keeps(self) -> bool:
        """At a mark: whether the next one would come too late."""
        now = time.monotonic()
        due = now - self.kept + (now - self.marked) > _KEEP_EVERY
        self.kept, self.marked = now if due else self.kept, now
        return due

    def tells(self, images: int, *, at_once: bool) -> float | None:
        """So many more images have been seen: the images a second, if it is time to tell."""
        now = time.monotonic()
        self.seen += images
        if now - self.told <= _TELL_EVERY and not at_once:
            return None
        speed = self.seen / max(now - self.told, 1e-9)
        self.told, self.seen = now, 0
        return speed


class _Training:
    """One task under way: what is trained, by what, and how far it has come."""

    def __init__(self, task: Task, material: Material, unit: Unit) -> None:
        self.task, self.material, self.unit = task, material, unit
        pieces, how = material.pieces, material.how
        self.steps, self.batch = task.steps(material.images), task.batch(material.images)
        self.grafted = Grafted(pieces, task.blocks).to(how.device)
        self.moving = nn.ModuleList(moving_modules(task, pieces))
        self.rates = rates_of(task, self.moving, material.images)
        self.optimiser = optimiser_of(task.stage, self.rates)
        self.course = restore(unit.state, self.moving, self.optimiser)
        self.order = Order(len(material.answers.views), self.batch, material.seed, task.name)
        self.targets = wanted(task, pieces, with_input=False)
        self.good, self.good_loss = self.state(), self.course.loss.average
        self._run = torch.compile(self.grafted) if how.compile else self.grafted

    def error(self) -> Tensor:
        """The loss on the views of the step at hand, on the features that the stage asks for."""
        index, stage = self.order.at(self.course.step), self.task.stage
        if stage.dropout:
            torch.manual_seed(self.order.seed + self.course.step)  # what drops out is the same after a resume
        if stage.input == "teacher":
            return self._distance(self._teachers(index), self._said(index))
        if stage.input == "student":
            return self._distance(self._students(index), self._said(index))
        assert stage.mu is not None  # a mix has one
        correction = self._distance(self._teachers(index), self._said(index))
        own = self._students(index)
        imitation = self._distance(own, self._said_of(own))
        return stage.mu * correction + (1 - stage.mu) * imitation

    def show(self, step: int) -> object:
        """The blocks as they are, on the views of a step."""
        index = self.order.at(step)
        features = self._teachers(index) if self.task.stage.input == "teacher" else self._students(index)
        with torch.no_grad():
            return self.grafted(features, {self.task.last})

    def _teachers(self, index: Tensor) -> Tensor:
        return self.material.answers.at(self.task.first - 1, index)

    @torch.no_grad()
    def _students(self, index: Tensor) -> Tensor:
        """What reaches the first trained block behind the student's blocks that stand before it."""
        before, value = self.task.before, self.task.first - 1
        if not before:
            return self._teachers(index)
        features = self.material.answers.at(before[0] - 1, index)
        given: dict[int, Tensor] = Grafted(self.material.pieces, before)(features, {value})
        return given[value]

    def _said(self, index: Tensor) -> dict[int, Tensor]:
        return {value: self.material.answers.at(value, index) for value in self.targets}

    @torch.no_grad()
    def _said_of(self, features: Tensor) -> dict[int, Tensor]:
        """What the teacher makes of features that are not its own."""
        said = {}
        for k in range(self.task.first, max(self.targets) + 1):
            features = self.material.pieces.teacher[k - 1](features)
            if k in self.targets:
                said[k] = features.float()
        return said

    def _distance(self, features: Tensor, said: dict[int, Tensor]) -> Tensor:
        with torch.autocast(self.material.how.device.type, torch.bfloat16, enabled=self.material.how.amp):
            given = self._run(features, self.targets)
        return loss(self.task, self.material.pieces, given, said)

    def step(self, error: Tensor) -> None:
        stage, course = self.task.stage, self.course
        share = factor_at(stage, course.step, self.steps) * (0.5 if course.halved else 1.0)
        for group, rate in zip(self.optimiser.param_groups, self.rates.values(), strict=True):
            group["lr"] = rate.value * share
        self.optimiser.zero_grad(set_to_none=True)
        error.backward()
        if stage.clip is not None:
            nn.utils.clip_grad_norm_(self.moving.parameters(), stage.clip)
        self.optimiser.step()
        course.average(stage.ema, self.moving)
        course.loss = course.loss.after(course.step, float(error.detach()))
        course.step += 1

    def is_finite(self) -> bool:
        return all(bool(torch.isfinite(parameter).all()) for parameter in self.moving.parameters())

    def state(self) -> dict[str, Any]:
        return state_of(self.moving, self.optimiser, self.course)

    def mark(self, state: dict[str, Any]) -> None:
        """The state is a good one: its loss is known, and has not doubled since the last one."""
        if not self.course.loss.average > 2 * max(self.good_loss, SMALL):
            self.good, self.good_loss = state, self.course.loss.average

    def keep(self) -> None:
        self.unit.keep(self.good["course"]["step"], self.good)

    def turn_back(self, value: float, listen: Listener) -> None:
        """To the last good state with half the rate, once."""
        name, at, stage = self.task.name, self.course.step, self.task.stage
        if self.course.halved:
            raise GateError(
                f"{name}: the loss ran away again at step {at} ({value:.3g}), with half the rate too.",
                f"Give the stage a lower rate: --set stages.{stage.name}.lr={nth(stage.lr, self.task.unit) / 10:g}.",
            )
        listen(Warned(f"{name}: the loss ran away at step {at} ({value:.3g}); once more with half the rate"))
        self.course = restore(self.good, self.moving, self.optimiser)
        self.course.halved = True
