"""Layer after layer of a student made from the teacher: each is treated, then run, and the next sees it."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from graftcli.errors import few
from graftcli.events import Event, Listener, TaskStarted, TaskStep, Warned
from graftcli.graft.data.sampler import Sampler
from graftcli.graft.layerwise.interpreter import Interpreter
from graftcli.graft.layerwise.layer_pairs import LayerPair, layers_of, passed_over
from graftcli.graft.layerwise.one_layer import LayerInputs, LayerTrainer, is_solvable, solve
from graftcli.graft.training.loop import Note, run_loop
from graftcli.graft.training.state import copied
from graftcli.graft.training.tasks import Pieces, Task, moving_modules
from graftcli.graft.training.trainer import TaskStore, TrainContext
from graftcli.models.channel_selection import ChannelSelection

_KEEP_EVERY = 8.0  # seconds between two layers behind which a resumed run goes on
_ROOM = 2.0  # as much memory as what is alive in the two networks is taken for what is made of it


def fit_layers(task: Task, context: TrainContext, unit: TaskStore, listen: Listener, note: Note) -> float:
    """Treat the layers of the task's blocks, in the order of their calls. Returns the average of their last losses."""
    work = _Layerwise(task, context, unit, listen, note)
    work.walk()
    return sum(work.losses) / max(1, len(work.losses))


def length(task: Task, images: int, pieces: Pieces, kept: Mapping[str, ChannelSelection]) -> int:
    """In how many steps a task is told: those of all its layers."""
    return _each(task, images) * sum(len(_treated(task, pieces, k, kept)) for k in numbers_of(task.blocks, pieces))


def _treated(task: Task, pieces: Pieces, number: int, kept: Mapping[str, ChannelSelection]) -> list[LayerPair]:
    """The layers of a piece that the task treats."""
    return [layer for layer in layers_of(pieces, number, kept) if is_solvable(layer, task.stage)]


def left_of(
    pieces: Pieces,
    numbers: Iterable[int],
    kept: Mapping[str, ChannelSelection],
    is_treated: Callable[[LayerPair], bool],
) -> list[str]:
    """The layers of these pieces that stay as they are."""
    found: list[str] = []
    for k in numbers:
        found += passed_over(pieces, k, kept)
        found += [layer.path for layer in layers_of(pieces, k, kept) if not is_treated(layer)]
    return found


def _each(task: Task, images: int) -> int:
    """The steps of one layer; what is solved at once is one."""
    return 1 if task.stage.optimizer == "least-squares" else task.steps(images)


def numbers_of(blocks: Sequence[int], pieces: Pieces) -> list[int]:
    """The pieces of the student that blocks of it are: the last one's head is a piece of its own."""
    return [*blocks, *([pieces.blocks + 1] if blocks[-1] == pieces.blocks else [])]


def side_by_side(
    pieces: Pieces,
    layers: Mapping[int, Sequence[LayerPair]],
    values: Sequence[Tensor],
    treat: Callable[[LayerPair, LayerInputs], None],
) -> Sequence[Tensor]:
    """Lead chunks of what reaches the first of some pieces through both networks, and come by the layers of each.

    What is between these pieces is the teacher's. A layer is treated before what follows it has run. Returns what the
    teacher gives at the end.
    """
    numbers = sorted(layers)
    own = theirs = values
    for k in range(numbers[0], numbers[-1] + 1):
        teacher = _Beside(Interpreter(pieces.teacher[k - 1], theirs))
        student = Interpreter(_stands(pieces, numbers, k), own)
        here = {layer.entry: layer for layer in layers.get(k, ())}
        for path, reads in student.layers():
            if path in here:
                treat(here[path], LayerInputs(reads, teacher.reads(here[path].teacher_layer)))
        own, theirs = student.values, teacher.values()
    return theirs


class _Layerwise:
    """How far the walk through both networks has come, and what is kept of it."""

    def __init__(self, task: Task, context: TrainContext, unit: TaskStore, listen: Listener, note: Note) -> None:
        self.task, self.context, self.unit, self.note = task, context, unit, note
        self.moving = nn.ModuleList(moving_modules(task, context.pieces))
        self.each = _each(task, context.images)
        self.total = length(task, context.images, context.pieces, context.kept)
        saved = unit.state
        self.done = 0 if saved is None else int(saved["layers"])
        self.inner: dict[str, Any] | None = None if saved is None else saved["inner"]
        self.losses: list[float] = [] if saved is None else list(saved["losses"])
        if saved is not None:
            self.moving.load_state_dict(saved["weights"])
        self.at, self.kept = 0, time.monotonic()
        self.told = listen
        stage, pieces = task.stage.name, context.pieces
        treats = partial(is_solvable, stage=task.stage)
        if left := left_of(pieces, numbers_of(task.blocks, pieces), context.kept, treats):
            treated = self.total // self.each
            listen(Warned(f"stage {stage} treats {treated} layers and leaves {len(left)} as they are: {few(left)}"))
        listen(TaskStarted(stage, task.first, task.last, self.done * self.each, self.total, 0, 0))

    # -- where a layer that is being trained keeps its state ------------------------------------------------------

    @property
    def state(self) -> dict[str, Any] | None:
        return self.inner

    def keep(self, step: int, state: dict[str, Any] | None) -> None:
        facts = {"layers": self.done, "inner": state, "losses": list(self.losses)}
        self.unit.keep(self.done * self.each + step, {"weights": copied(self.moving.state_dict()), **facts})
        self.kept = time.monotonic()

    # -- both networks, side by side ------------------------------------------------------------------------------

    def walk(self) -> None:
        pieces, numbers = self.context.pieces, numbers_of(self.task.blocks, self.context.pieces)
        layers = {k: _treated(self.task, pieces, k, self.context.kept) for k in numbers}
        side_by_side(pieces, layers, self._looked_at(), self._treat)

    def _looked_at(self) -> list[Tensor]:
        """What reaches the first block of as many views as the stage asks for and there is room for."""
        task, context = self.task, self.context
        batch, views = task.batch(context.images), len(context.teacher_cache.views)
        steps = task.steps(context.images)
        order = Sampler(views, batch, context.seed, task.name)
        first = context.teacher_cache.at(task.first - 1, order.at(0))
        room = max(1, int(context.memory // (_ROOM * self._bytes(first) + 1)))
        most = steps if task.stage.optimizer == "least-squares" else min(steps, max(1, views // batch))
        if room < most:
            seen = f"sees {room * batch:,} views and not {most * batch:,}"
            self.told(Warned(f"stage {task.stage.name} {seen}: more do not fit {context.memory / 2**30:.1f} GiB"))
        rest = (context.teacher_cache.at(task.first - 1, order.at(step)) for step in range(1, min(most, room)))
        return [first, *rest]

    def _bytes(self, features: Tensor) -> int:
        """What is alive in both networks, at most, with one batch."""
        most, pieces = 0, self.context.pieces
        numbers = numbers_of(self.task.blocks, pieces)
        own = theirs = [features]
        for k in range(self.task.first, numbers[-1] + 1):
            teacher, student = Interpreter(pieces.teacher[k - 1], theirs), Interpreter(_stands(pieces, numbers, k), own)
            _to_the_end(teacher)
            _to_the_end(student)
            most = max(most, teacher.bytes + student.bytes)
            own, theirs = student.values, teacher.values
        return most

    def _treat(self, layer: LayerPair, seen: LayerInputs) -> None:
        self.at += 1
        if self.at <= self.done:
            return
        loss = self._solve(layer, seen) if self.task.stage.optimizer == "least-squares" else self._train(layer, seen)
        self.losses.append(loss)
        self.done, self.inner = self.at, None
        if time.monotonic() - self.kept > _KEEP_EVERY:
            self.keep(0, None)

    def _train(self, layer: LayerPair, seen: LayerInputs) -> float:
        done, total, task = self.done * self.each, self.total, self.task

        def told(event: Event) -> None:
            if isinstance(event, TaskStep):
                self.told(replace(event, step=done + event.step, steps=total))
            elif not isinstance(event, TaskStarted):
                self.told(event)

        training = LayerTrainer(task, layer, seen, self.context, self)
        return run_loop(training, told, lambda step, loss: self.note(done + step, loss))

    def _solve(self, layer: LayerPair, seen: LayerInputs) -> float:
        task, began = self.task, time.monotonic()
        loss = solve(layer, seen, task.stage)
        self.note(self.at, loss)
        speed = sum(map(len, seen.own)) / max(time.monotonic() - began, 1e-9)
        self.told(TaskStep(task.stage.name, task.first, task.last, self.at, self.total, loss, speed))
        return loss


class _Beside:
    """The teacher's walk, led to the layers that the student's asks for; both come by them in one order."""

    def __init__(self, walk: Interpreter) -> None:
        self._walk, self._stops = walk, walk.layers()
        self._here: tuple[str, list[Tensor]] | None = None

    def reads(self, path: str) -> list[Tensor]:
        while self._here is None or self._here[0] != path:
            self._here = next(self._stops)
        return self._here[1]

    def values(self) -> list[Tensor]:
        for _ in self._stops:
            pass
        return self._walk.values


def _stands(pieces: Pieces, numbers: Sequence[int], k: int) -> nn.Module:
    """What stands at piece k while these are trained: the student's, or the teacher's between them."""
    return (pieces.student if k in numbers else pieces.teacher)[k - 1]


def _to_the_end(walk: Interpreter) -> None:
    for _ in walk.layers():
        pass
