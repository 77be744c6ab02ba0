"""A task under way: what is trained, by what, towards what, and how far it has come."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from graftcli.errors import GateError
from graftcli.events import Listener, Warned
from graftcli.graft.backend.precision import Precision
from graftcli.graft.data.sampler import Sampler
from graftcli.graft.data.teacher_cache import TeacherCache
from graftcli.graft.training.judge import Watch
from graftcli.graft.training.optim import factor_at, optimiser_of, rate_of, rates_of
from graftcli.graft.training.state import SMALL, restore, state_of
from graftcli.graft.training.tasks import Grafted, Pieces, Task, loss, moving_modules, wanted
from graftcli.models.channel_selection import ChannelSelection


class TaskStore(Protocol):
    """Where a task keeps its state; the store has one for each task."""

    @property
    def state(self) -> dict[str, Any] | None: ...
    def keep(self, step: int, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class TrainContext:
    """What every task is trained with."""

    pieces: Pieces
    teacher_cache: TeacherCache
    images: int
    seed: int
    precision: Precision
    memory: int = 2**31  # bytes for the views of a layer-wise stage
    kept: dict[str, ChannelSelection] = field(default_factory=dict)  # what a made student's layers are of the teacher's


class Trainer(ABC):
    """What every training has, whatever it is that is trained."""

    def __init__(
        self,
        name: str,
        task: Task,
        moving: nn.Module,
        context: TrainContext,
        unit: TaskStore,
        factor: float | None = None,
        watch: Watch | None = None,
    ) -> None:
        """`factor` is that of the rate; None: as the unit's state has it."""
        self.name, self.task, self.moving, self.context, self.unit = name, task, moving, context, unit
        self.steps, self.batch = task.steps(context.images), task.batch(context.images)
        self.rates = rates_of(task, moving, context.images)
        self.optimiser = optimiser_of(task.stage, self.rates)
        self.train_state = restore(unit.state, moving, self.optimiser)
        self.train_state.factor = self.train_state.factor if factor is None else factor
        self.watch = watch
        self.good, self.good_loss = self.state(), self.train_state.loss.average

    @abstractmethod
    def error(self) -> Tensor:
        """The loss on the views of the step at hand."""

    @abstractmethod
    def show(self, step: int) -> object:
        """What is trained, as it is, on the views of a step."""

    @property
    def only_falls(self) -> bool:
        return self.watch is not None and self.watch.only_falls(self.train_state.scores)

    @property
    def stopped(self) -> int | None:
        """The step at which it was ended early."""
        return self.train_state.step if self.train_state.step < self.steps else None

    def score(self) -> None:
        """At its marks, on views that nothing is trained on, with the averaged weights where there are any."""
        if (
            self.watch is not None
            and self.train_state.step in self.watch.marks
            and self.train_state.step not in self.train_state.scores
        ):
            with self.train_state.averaged(self.moving):
                self.train_state.scores[self.train_state.step] = self.watch.measure()

    def step(self, error: Tensor) -> None:
        stage, train_state = self.task.stage, self.train_state
        share = (
            factor_at(stage, train_state.step, self.steps) * train_state.factor * (0.5 if train_state.halved else 1.0)
        )
        for group, rate in zip(self.optimiser.param_groups, self.rates.values(), strict=True):
            group["lr"] = rate.value * share
        self.optimiser.zero_grad(set_to_none=True)
        error.backward()
        if stage.clip is not None:
            nn.utils.clip_grad_norm_(self.moving.parameters(), stage.clip)
        self.optimiser.step()
        train_state.average(stage.ema, self.moving)
        train_state.loss = train_state.loss.after(train_state.step, float(error.detach()))
        train_state.step += 1

    def is_finite(self) -> bool:
        return all(bool(torch.isfinite(parameter).all()) for parameter in self.moving.parameters())

    def state(self) -> dict[str, Any]:
        return state_of(self.moving, self.optimiser, self.train_state)

    def mark(self, state: dict[str, Any]) -> None:
        """The state is a good one: its loss is known, and has not doubled since the last one."""
        if not self.train_state.loss.average > 2 * max(self.good_loss, SMALL):
            self.good, self.good_loss = state, self.train_state.loss.average

    def keep(self) -> None:
        self.unit.keep(self.good["course"]["step"], self.good)

    def turn_back(self, value: float, listen: Listener) -> None:
        """To the last good state with half the rate, once."""
        name, at, stage = self.name, self.train_state.step, self.task.stage
        if self.train_state.halved:
            raise GateError(
                f"{name}: the loss ran away again at step {at} ({value:.3g}), with half the rate too.",
                f"Give the stage a lower rate: --set stages.{stage.name}.lr={rate_of(self.task) / 10:g}.",
            )
        listen(Warned(f"{name}: the loss ran away at step {at} ({value:.3g}); once more with half the rate"))
        self.train_state = restore(self.good, self.moving, self.optimiser)
        self.train_state.halved = True


class BlockTrainer(Trainer):
    """Blocks of the student inside the teacher."""

    def __init__(
        self,
        task: Task,
        context: TrainContext,
        unit: TaskStore,
        factor: float | None = None,
        watch: Watch | None = None,
    ) -> None:
        pieces, precision = context.pieces, context.precision
        self.grafted = Grafted(pieces, task.blocks).to(precision.device)
        super().__init__(task.name, task, nn.ModuleList(moving_modules(task, pieces)), context, unit, factor, watch)
        self.order = Sampler(len(context.teacher_cache.views), self.batch, context.seed, task.name)
        self.targets = wanted(task, pieces, with_input=False)
        if precision.compile:
            torch.compiler.reset()  # torch compiles one forward pass for eight networks at most, and units share theirs
        self._run = torch.compile(self.grafted) if precision.compile else self.grafted

    def error(self) -> Tensor:
        """The loss on the features that the stage asks for."""
        index, stage = self.order.at(self.train_state.step), self.task.stage
        if stage.dropout:
            torch.manual_seed(self.order.seed + self.train_state.step)  # what drops out is the same after a resume
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
        last, blocks = self.task.last, self.context.pieces.blocks
        with torch.no_grad():
            return self.grafted(features, {last + 1 if last == blocks else last})  # the head too, where it is trained

    def _teachers(self, index: Tensor) -> Tensor:
        return self.context.teacher_cache.at(self.task.first - 1, index)

    @torch.no_grad()
    def _students(self, index: Tensor) -> Tensor:
        """What reaches the first trained block behind the student's blocks that stand before it."""
        before, value = self.task.before, self.task.first - 1
        if not before:
            return self._teachers(index)
        features = self.context.teacher_cache.at(before[0] - 1, index)
        given: dict[int, Tensor] = Grafted(self.context.pieces, before)(features, {value})
        return given[value]

    def _said(self, index: Tensor) -> dict[int, Tensor]:
        return {value: self.context.teacher_cache.at(value, index) for value in self.targets}

    @torch.no_grad()
    def _said_of(self, features: Tensor) -> dict[int, Tensor]:
        """What the teacher makes of features that are not its own."""
        said = {}
        for k in range(self.task.first, max(self.targets) + 1):
            features = self.context.pieces.teacher[k - 1](features)
            if k in self.targets:
                said[k] = features.float()
        return said

    def _distance(self, features: Tensor, said: dict[int, Tensor]) -> Tensor:
        with self.context.precision.autocast():
            given = self._run(features, self.targets)
        return loss(self.task, self.context.pieces, given, said)
