"""A task under way: what is trained, by what, towards what, and how far it has come."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from graftcli.errors import GateError
from graftcli.events import Listener, Warned
from graftcli.graft.answers import Answers
from graftcli.graft.course import SMALL, restore, state_of
from graftcli.graft.judge import Watch
from graftcli.graft.order import Order
from graftcli.graft.precision import Precision
from graftcli.graft.solver import factor_at, optimiser_of, rate_of, rates_of
from graftcli.graft.stages import Grafted, Pieces, Task, loss, moving_modules, wanted
from graftcli.nets.kept import Kept


class Unit(Protocol):
    """Where a task keeps its state; the store has one for each task."""

    @property
    def state(self) -> dict[str, Any] | None: ...
    def keep(self, step: int, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Material:
    """What every task is trained with."""

    pieces: Pieces
    answers: Answers
    images: int
    seed: int
    how: Precision
    memory: int = 2**31  # bytes for the views of a layer-wise stage
    kept: dict[str, Kept] = field(default_factory=dict)  # what a made student's layers are of the teacher's


class Training(ABC):
    """What every training has, whatever it is that is trained."""

    def __init__(
        self,
        name: str,
        task: Task,
        moving: nn.Module,
        material: Material,
        unit: Unit,
        factor: float | None = None,
        watch: Watch | None = None,
    ) -> None:
        """`factor` is that of the rate; None: as the unit's state has it."""
        self.name, self.task, self.moving, self.material, self.unit = name, task, moving, material, unit
        self.steps, self.batch = task.steps(material.images), task.batch(material.images)
        self.rates = rates_of(task, moving, material.images)
        self.optimiser = optimiser_of(task.stage, self.rates)
        self.course = restore(unit.state, moving, self.optimiser)
        self.course.factor = self.course.factor if factor is None else factor
        self.watch = watch
        self.good, self.good_loss = self.state(), self.course.loss.average

    @abstractmethod
    def error(self) -> Tensor:
        """The loss on the views of the step at hand."""

    @abstractmethod
    def show(self, step: int) -> object:
        """What is trained, as it is, on the views of a step."""

    @property
    def only_falls(self) -> bool:
        return self.watch is not None and self.watch.only_falls(self.course.scores)

    @property
    def stopped(self) -> int | None:
        """The step at which it was ended early."""
        return self.course.step if self.course.step < self.steps else None

    def score(self) -> None:
        """At its marks, on views that nothing is trained on, with the averaged weights where there are any."""
        if (
            self.watch is not None
            and self.course.step in self.watch.marks
            and self.course.step not in self.course.scores
        ):
            with self.course.averaged(self.moving):
                self.course.scores[self.course.step] = self.watch.measure()

    def step(self, error: Tensor) -> None:
        stage, course = self.task.stage, self.course
        share = factor_at(stage, course.step, self.steps) * course.factor * (0.5 if course.halved else 1.0)
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
        name, at, stage = self.name, self.course.step, self.task.stage
        if self.course.halved:
            raise GateError(
                f"{name}: the loss ran away again at step {at} ({value:.3g}), with half the rate too.",
                f"Give the stage a lower rate: --set stages.{stage.name}.lr={rate_of(self.task) / 10:g}.",
            )
        listen(Warned(f"{name}: the loss ran away at step {at} ({value:.3g}); once more with half the rate"))
        self.course = restore(self.good, self.moving, self.optimiser)
        self.course.halved = True


class BlockTraining(Training):
    """Blocks of the student inside the teacher."""

    def __init__(
        self,
        task: Task,
        material: Material,
        unit: Unit,
        factor: float | None = None,
        watch: Watch | None = None,
    ) -> None:
        pieces, how = material.pieces, material.how
        self.grafted = Grafted(pieces, task.blocks).to(how.device)
        super().__init__(task.name, task, nn.ModuleList(moving_modules(task, pieces)), material, unit, factor, watch)
        self.order = Order(len(material.answers.views), self.batch, material.seed, task.name)
        self.targets = wanted(task, pieces, with_input=False)
        if how.compile:
            torch.compiler.reset()  # torch compiles one forward pass for eight networks at most, and units share theirs
        self._run = torch.compile(self.grafted) if how.compile else self.grafted

    def error(self) -> Tensor:
        """The loss on the features that the stage asks for."""
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
        index = self.order.at(step)
        features = self._teachers(index) if self.task.stage.input == "teacher" else self._students(index)
        last, blocks = self.task.last, self.material.pieces.blocks
        with torch.no_grad():
            return self.grafted(features, {last + 1 if last == blocks else last})  # the head too, where it is trained

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
        with self.material.how.autocast():
            given = self._run(features, self.targets)
        return loss(self.task, self.material.pieces, given, said)
