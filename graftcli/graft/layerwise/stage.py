"""Runs a layer-wise stage: fits the layers of a derived student one by one, each on the outputs of the fitted ones."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypedDict, cast

from torch import Tensor, nn

from graftcli.errors import few
from graftcli.events import Event, Listener, TaskStarted, TaskStep, Warned
from graftcli.graft.data.sampler import Sampler
from graftcli.graft.layerwise.interpreter import Interpreter
from graftcli.graft.layerwise.layer_pairs import LayerPair, layer_pairs, unpaired_layers
from graftcli.graft.layerwise.one_layer import LayerInputs, LayerTrainer, is_solvable, solve_layer
from graftcli.graft.training.loop import LossLog, run_loop
from graftcli.graft.training.pieces import Pieces
from graftcli.graft.training.state import clone_tensors
from graftcli.graft.training.tasks import Task, trained_modules
from graftcli.graft.training.trainer import TaskStore, TrainContext
from graftcli.models.channel_selection import ChannelSelection
from graftcli.store import intervals

_MEMORY_FACTOR = 2.0  # memory for intermediate results, relative to the features that both networks hold


def fit_layers(task: Task, context: TrainContext, unit: TaskStore, listen: Listener, log_loss: LossLog) -> float:
    """Fit the layers of the task's blocks in the order of their calls. Returns the mean of their final losses."""
    stage = _LayerwiseStage(task, context, unit, listen, log_loss)
    stage.run()
    return sum(stage.losses) / max(1, len(stage.losses))


def layerwise_steps(task: Task, images: int, pieces: Pieces, selections: Mapping[str, ChannelSelection]) -> int:
    """Return the number of steps of a layer-wise task: the sum over its layers."""
    numbers = piece_numbers(task.trained, pieces)
    return _steps_per_layer(task, images) * sum(len(_fitted_layers(task, pieces, k, selections)) for k in numbers)


def _fitted_layers(
    task: Task, pieces: Pieces, number: int, selections: Mapping[str, ChannelSelection]
) -> list[LayerPair]:
    return [layer for layer in layer_pairs(pieces, number, selections) if is_solvable(layer, task.stage)]


def unfitted_layers(
    pieces: Pieces,
    numbers: Iterable[int],
    selections: Mapping[str, ChannelSelection],
    is_fitted: Callable[[LayerPair], bool],
) -> list[str]:
    """Return the paths of the layers in these pieces that are not fitted."""
    paths: list[str] = []
    for k in numbers:
        paths += unpaired_layers(pieces, k, selections)
        paths += [layer.path for layer in layer_pairs(pieces, k, selections) if not is_fitted(layer)]
    return paths


def _steps_per_layer(task: Task, images: int) -> int:
    return 1 if task.stage.optimizer == "least-squares" else task.steps(images)


def piece_numbers(blocks: Sequence[int], pieces: Pieces) -> list[int]:
    """Return the numbers of the pieces that make up these blocks; the head of the last block is a separate piece."""
    return [*blocks, *([pieces.blocks + 1] if blocks[-1] == pieces.blocks else [])]


def run_side_by_side(
    pieces: Pieces,
    layers: Mapping[int, Sequence[LayerPair]],
    values: Sequence[Tensor],
    fit: Callable[[LayerPair, LayerInputs], None],
) -> Sequence[Tensor]:
    """Run both networks on chunks of inputs of the first piece in `layers`; fit each layer before later layers run.

    Pieces that are not in `layers` are the teacher's in both networks. Returns the teacher's outputs.
    """
    numbers = sorted(layers)
    student_values = teacher_values = values
    for k in range(numbers[0], numbers[-1] + 1):
        teacher = _TeacherRun(Interpreter(pieces.teacher[k - 1], teacher_values))
        student = Interpreter(_student_piece(pieces, numbers, k), student_values)
        by_entry = {layer.entry: layer for layer in layers.get(k, ())}
        for path, inputs in student.layers():
            if path in by_entry:
                layer = by_entry[path]
                fit(layer, LayerInputs(inputs, teacher.inputs_of(layer.teacher_layer)))
        student_values, teacher_values = student.values, teacher.outputs()
    return teacher_values


class _LayerwiseState(TypedDict):
    """Everything that a layer-wise task needs to resume. The keys are those of the state file."""

    weights: dict[str, Tensor]
    layers: int  # that are done
    inner: Mapping[str, object] | None  # the state of the layer that is being trained
    losses: list[float]


class _LayerwiseStage:
    """The progress of a layer-wise task. It is the TaskStore of the layer that is being trained."""

    def __init__(self, task: Task, context: TrainContext, unit: TaskStore, listen: Listener, log_loss: LossLog) -> None:
        self.task, self.context, self.unit, self.listen, self.log_loss = task, context, unit, listen, log_loss
        self.trainable = nn.ModuleList(trained_modules(task, context.pieces))
        self.steps_per_layer = _steps_per_layer(task, context.images)
        self.total = layerwise_steps(task, context.images, context.pieces, context.kept)
        saved = cast(_LayerwiseState | None, unit.state)  # the store returns what `keep` has made
        self.done = 0 if saved is None else saved["layers"]
        self.layer_state = None if saved is None else saved["inner"]
        self.losses = [] if saved is None else list(saved["losses"])
        if saved is not None:
            self.trainable.load_state_dict(saved["weights"])
        self.current, self.saved_at = 0, time.monotonic()
        self._warn_of_unfitted()
        first_step = self.done * self.steps_per_layer
        listen(TaskStarted(task.stage.name, task.first, task.last, first_step, self.total, 0, 0))

    def _warn_of_unfitted(self) -> None:
        task, pieces = self.task, self.context.pieces
        is_fitted = partial(is_solvable, stage=task.stage)
        if unfitted := unfitted_layers(pieces, piece_numbers(task.trained, pieces), self.context.kept, is_fitted):
            fitted = self.total // self.steps_per_layer
            text = f"stage {task.stage.name} trains {fitted} of {fitted + len(unfitted)} layers"
            self.listen(Warned(f"{text}; skipped: {few(unfitted)}"))

    # -- the state of the layer that is being trained -------------------------------------------------------------

    @property
    def state(self) -> Mapping[str, object] | None:
        return self.layer_state

    def keep(self, step: int, state: Mapping[str, object] | None) -> None:
        whole: _LayerwiseState = {
            "weights": clone_tensors(self.trainable.state_dict()),
            "layers": self.done,
            "inner": state,
            "losses": list(self.losses),
        }
        self.unit.keep(self.done * self.steps_per_layer + step, whole)
        self.saved_at = time.monotonic()

    # -- fitting --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        task, pieces, selections = self.task, self.context.pieces, self.context.kept
        trained = piece_numbers(task.trained, pieces)
        layers = {
            k: _fitted_layers(task, pieces, k, selections) if k in trained else []
            for k in piece_numbers(task.blocks, pieces)
        }
        run_side_by_side(pieces, layers, self._inputs(), self._fit)

    def _inputs(self) -> list[Tensor]:
        """Return the first block's inputs in batches: as many views as the stage specifies and memory allows."""
        task, context = self.task, self.context
        batch, views = task.batch(context.images), len(context.teacher_cache.views)
        steps = task.steps(context.images)
        order = Sampler(views, batch, context.seed, task.name)
        first = context.teacher_cache.at(task.first - 1, order.at(0))
        limit = max(1, int(context.memory // (_MEMORY_FACTOR * self._bytes(first) + 1)))
        wanted = steps if task.stage.optimizer == "least-squares" else min(steps, max(1, views // batch))
        if limit < wanted:
            reduced = f"uses {limit * batch:,} views instead of {wanted * batch:,}"
            memory = f"{context.memory / 2**30:.1f} GiB"
            self.listen(Warned(f"stage {task.stage.name} {reduced}: more do not fit in {memory}"))
        rest = (context.teacher_cache.at(task.first - 1, order.at(step)) for step in range(1, min(wanted, limit)))
        return [first, *rest]

    def _bytes(self, features: Tensor) -> int:
        """Return the peak size of the features alive in both networks for one batch."""
        peak, pieces = 0, self.context.pieces
        numbers = piece_numbers(self.task.blocks, pieces)
        student_values = teacher_values = [features]
        for k in range(self.task.first, numbers[-1] + 1):
            teacher = Interpreter(pieces.teacher[k - 1], teacher_values)
            student = Interpreter(_student_piece(pieces, numbers, k), student_values)
            _run_to_end(teacher)
            _run_to_end(student)
            peak = max(peak, teacher.bytes + student.bytes)
            student_values, teacher_values = student.values, teacher.values
        return peak

    def _fit(self, layer: LayerPair, inputs: LayerInputs) -> None:
        self.current += 1
        if self.current <= self.done:
            return
        is_solved = self.task.stage.optimizer == "least-squares"
        self.losses.append(self._solve(layer, inputs) if is_solved else self._train(layer, inputs))
        self.done, self.layer_state = self.current, None
        if time.monotonic() - self.saved_at > intervals.SAVE_SECONDS:
            self.keep(0, None)

    def _train(self, layer: LayerPair, inputs: LayerInputs) -> float:
        done, total, task = self.done * self.steps_per_layer, self.total, self.task

        def listen(event: Event) -> None:
            if isinstance(event, TaskStep):
                self.listen(replace(event, step=done + event.step, steps=total))
            elif not isinstance(event, TaskStarted):
                self.listen(event)

        trainer = LayerTrainer(task, layer, inputs, self.context, self)
        return run_loop(trainer, listen, lambda step, loss: self.log_loss(done + step, loss))

    def _solve(self, layer: LayerPair, inputs: LayerInputs) -> float:
        task, began = self.task, time.monotonic()
        loss = solve_layer(layer, inputs, task.stage)
        self.log_loss(self.current, loss)
        speed = sum(map(len, inputs.student)) / max(time.monotonic() - began, 1e-9)
        self.listen(TaskStep(task.stage.name, task.first, task.last, self.current, self.total, loss, speed))
        return loss


class _TeacherRun:
    """A run of the teacher that advances in step with the student's run; both call their layers in the same order."""

    def __init__(self, interpreter: Interpreter) -> None:
        self._interpreter, self._calls = interpreter, interpreter.layers()
        self._current: tuple[str, list[Tensor]] | None = None

    def inputs_of(self, path: str) -> list[Tensor]:
        while self._current is None or self._current[0] != path:
            self._current = next(self._calls)
        return self._current[1]

    def outputs(self) -> list[Tensor]:
        for _ in self._calls:
            pass
        return self._interpreter.values


def _student_piece(pieces: Pieces, numbers: Sequence[int], k: int) -> nn.Module:
    """Return the student's piece k if `numbers` holds it, else the teacher's."""
    return (pieces.student if k in numbers else pieces.teacher)[k - 1]


def _run_to_end(interpreter: Interpreter) -> None:
    for _ in interpreter.layers():
        pass
