"""Trainers: the optimiser, the loss and the progress of a task, whatever it trains."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from graftcli.distributed.data_parallel import sum_gradients
from graftcli.distributed.world import SINGLE, World
from graftcli.errors import GateError
from graftcli.events import Listener, Warned
from graftcli.graft.backend.precision import Precision
from graftcli.graft.data.sampler import Sampler
from graftcli.graft.data.teacher_cache import TeacherCache
from graftcli.graft.training.judge import Watch
from graftcli.graft.training.optim import factor_at, optimiser_of, rate_of, rates_of
from graftcli.graft.training.pieces import Grafted, Pieces
from graftcli.graft.training.state import NEGLIGIBLE_LOSS, TaskState, restore, state_of
from graftcli.graft.training.tasks import Task, loss, teacher_values, trained_modules
from graftcli.models.channel_selection import ChannelSelection

_RANK_SEED = 1_000_003  # between the seeds of two processes


class TaskStore(Protocol):
    """Keeps the state of one task."""

    @property
    def state(self) -> Mapping[str, object] | None:
        """The last kept state; None if there is none."""

    def keep(self, step: int, state: Mapping[str, object]) -> None:
        """Keep the state after `step`: nested dicts and lists of tensors and numbers."""


@dataclass(frozen=True)
class TrainContext:
    """The data and settings that all tasks are trained with."""

    pieces: Pieces
    teacher_cache: TeacherCache
    images: int
    seed: int
    precision: Precision
    memory: int = 2**31  # bytes for the views of a layer-wise stage
    kept: dict[str, ChannelSelection] = field(default_factory=dict)  # by layer of a derived student
    world: World = SINGLE  # the processes that share each batch


class Trainer(ABC):
    """Base class of all trainers."""

    def __init__(
        self,
        name: str,
        task: Task,
        trainable: nn.Module,
        context: TrainContext,
        unit: TaskStore,
        factor: float | None = None,
        watch: Watch | None = None,
    ) -> None:
        """`factor` multiplies the learning rate; None takes it from the unit's state."""
        self.name, self.task, self.trainable, self.context, self.unit = name, task, trainable, context, unit
        self.steps, self.batch = task.steps(context.images), task.batch(context.images)
        self.rates = rates_of(task, trainable, context.images)
        self.optimiser = optimiser_of(task.stage, self.rates)
        self.train_state = restore(unit.state, trainable, self.optimiser)
        self.train_state.factor = self.train_state.factor if factor is None else factor
        self.watch = watch
        self.good_state, self.good_loss = self.state(), self.train_state.loss.average

    @abstractmethod
    def compute_loss(self) -> Tensor:
        """Compute the loss on the views of the current step, or this process's part of it."""

    @abstractmethod
    def forward(self, step: int) -> object:
        """Run what is trained on the views of a step, without gradients."""

    @property
    def is_falling(self) -> bool:
        """Whether the task has only made the student worse so far."""
        return self.watch is not None and self.watch.is_falling(self.train_state.scores)

    @property
    def stopped(self) -> int | None:
        """The step at which the task was ended early."""
        return self.train_state.step if self.train_state.step < self.steps else None

    def score(self) -> None:
        """Score the student, with averaged weights if there are any, at the steps that `watch` names."""
        train_state = self.train_state
        if self.watch is None or train_state.step not in self.watch.steps or train_state.step in train_state.scores:
            return
        with train_state.averaged(self.trainable):
            train_state.scores[train_state.step] = self.watch.measure()

    def step(self, loss: Tensor) -> None:
        """Take one optimiser step."""
        stage, train_state = self.task.stage, self.train_state
        halving = 0.5 if train_state.halved else 1.0
        share = factor_at(stage, train_state.step, self.steps) * train_state.factor * halving
        for group, rate in zip(self.optimiser.param_groups, self.rates.values(), strict=True):
            group["lr"] = rate.value * share
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if self.context.world.size > 1:
            loss = sum_gradients(self.context.world, self.trainable.parameters(), loss)
        if stage.clip is not None:
            nn.utils.clip_grad_norm_(self.trainable.parameters(), stage.clip)
        self.optimiser.step()
        train_state.average(stage.ema, self.trainable)
        train_state.loss = train_state.loss.after(train_state.step, loss)
        train_state.step += 1

    def read(self, loss: Tensor) -> float:
        """Read the loss of a batch from the device, and from the processes that share the batch."""
        return float(self.context.world.sum(loss.detach()))

    def has_failed(self) -> bool:
        """Whether the loss has diverged or a weight is not finite."""
        finite = [torch.isfinite(parameter).all() for parameter in self.trainable.parameters()]
        has_diverged = self.train_state.loss.has_diverged(self.train_state.step)
        return has_diverged or (bool(finite) and not bool(torch.stack(finite).all()))

    def state(self) -> TaskState:
        """Copy everything that the task needs to resume."""
        return state_of(self.trainable, self.optimiser, self.train_state)

    def accept(self, state: TaskState, average: float) -> None:
        """Take a state as the one to roll back to, unless the average loss has doubled since the last."""
        if not average > 2 * max(self.good_loss, NEGLIGIBLE_LOSS):
            self.good_state, self.good_loss = state, average

    def keep(self) -> None:
        """Store the state to roll back to."""
        self.unit.keep(self.good_state["course"]["step"], self.good_state)

    def roll_back(self, value: float, listen: Listener) -> None:
        """Return to the last good state with half the learning rate; raise if the task was rolled back before."""
        name, at, stage = self.name, self.train_state.step, self.task.stage
        if self.train_state.halved:
            raise GateError(
                f"{name}: the loss diverged again at step {at} ({value:.3g}), at half the learning rate.",
                f"Set a lower learning rate: --set stages.{stage.name}.lr={rate_of(self.task) / 10:g}.",
            )
        listen(Warned(f"{name}: the loss diverged at step {at} ({value:.3g}); retrying at half the learning rate"))
        self.train_state = restore(self.good_state, self.trainable, self.optimiser)
        self.train_state.halved = True


class BlockTrainer(Trainer):
    """Trains blocks of the student inside the teacher."""

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
        super().__init__(task.name, task, nn.ModuleList(trained_modules(task, pieces)), context, unit, factor, watch)
        self.order = Sampler(len(context.teacher_cache.views), self.batch, context.seed, task.name)
        self.targets = teacher_values(task, pieces, with_input=False)
        if precision.compile:
            torch.compiler.reset()  # torch compiles one code object for at most eight modules; all tasks share this one
        self._run = torch.compile(self.grafted) if precision.compile else self.grafted

    def compute_loss(self) -> Tensor:
        """Compute the loss of the stage's targets on the views of the current step."""
        stage, step, rank = self.task.stage, self.train_state.step, self.context.world.rank
        batch = self.order.at(step)
        index = self._part(batch)
        share = len(index) / len(batch)
        if stage.dropout:
            torch.manual_seed(self.order.seed + step + rank * _RANK_SEED)  # a resumed run drops the same activations
        if stage.input == "teacher":
            return self._loss(self._teacher_input(index), self._targets(index), share)
        if stage.input == "student":
            return self._loss(self._student_input(index), self._targets(index), share)
        assert stage.mu is not None  # stages with mixed input always have mu
        correction = self._loss(self._teacher_input(index), self._targets(index), share)
        student_input = self._student_input(index)
        imitation = self._loss(student_input, self._teacher_outputs(student_input), share)
        return stage.mu * correction + (1 - stage.mu) * imitation

    def forward(self, step: int) -> object:
        """Run the trained blocks on the views of a step, without gradients."""
        index = self._part(self.order.at(step))
        features = self._teacher_input(index) if self.task.stage.input == "teacher" else self._student_input(index)
        last, blocks = self.task.last, self.context.pieces.blocks
        with torch.no_grad():
            return self.grafted(features, {last + 1 if last == blocks else last})  # with the head, if it is trained

    def _part(self, batch: Tensor) -> Tensor:
        """Return this process's part of a batch."""
        return batch[self.context.world.rank :: self.context.world.size]

    def _teacher_input(self, index: Tensor) -> Tensor:
        return self.context.teacher_cache.at(self.task.first - 1, index)

    @torch.no_grad()
    def _student_input(self, index: Tensor) -> Tensor:
        """Return the input of the first trained block: the output of the student blocks before it."""
        before, value = self.task.before, self.task.first - 1
        if not before:
            return self._teacher_input(index)
        features = self.context.teacher_cache.at(before[0] - 1, index)
        outputs: dict[int, Tensor] = Grafted(self.context.pieces, before)(features, {value})
        return outputs[value]

    def _targets(self, index: Tensor) -> dict[int, Tensor]:
        return {value: self.context.teacher_cache.at(value, index) for value in self.targets}

    @torch.no_grad()
    def _teacher_outputs(self, features: Tensor) -> dict[int, Tensor]:
        """Run the teacher's blocks on features of the student, and return the target values."""
        outputs = {}
        for k in range(self.task.first, max(self.targets) + 1):
            features = self.context.pieces.teacher[k - 1](features)
            if k in self.targets:
                outputs[k] = features.float()
        return outputs

    def _loss(self, features: Tensor, targets: dict[int, Tensor], share: float) -> Tensor:
        """Return the loss, or the part of it of this process, which has this share of the batch."""
        with self.context.precision.autocast():
            outputs = self._run(features, self.targets)
        task, pieces, world = self.task, self.context.pieces, self.context.world
        if world.size == 1:
            return loss(task, pieces, outputs, targets)
        return share * loss(task, pieces, outputs, targets, lambda scale: world.sum(share * scale))
