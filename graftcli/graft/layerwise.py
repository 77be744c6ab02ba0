"""Layer after layer of a student made from the teacher: each is treated, then run, and the next sees it."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from graftcli.errors import few
from graftcli.events import Began, Event, Listener, Stepped, Warned
from graftcli.graft.counterparts import Layer, layers_of, passed_over
from graftcli.graft.course import copied
from graftcli.graft.fit import Note, fit
from graftcli.graft.one_layer import LayerTraining, Seen, is_solvable, solve
from graftcli.graft.order import Order
from graftcli.graft.stages import Pieces, Task, moving_modules
from graftcli.graft.training import Material, Unit
from graftcli.graft.walk import Walk
from graftcli.nets.kept import Kept

_KEEP_EVERY = 8.0  # seconds between two layers behind which a resumed run goes on
_ROOM = 2.0  # as much memory as what is alive in the two networks is taken for what is made of it


def fit_layers(task: Task, material: Material, unit: Unit, listen: Listener, note: Note) -> float:
    """Treat the layers of the task's blocks, in the order of their calls. Returns the average of their last losses."""
    work = _Layerwise(task, material, unit, listen, note)
    work.walk()
    return sum(work.losses) / max(1, len(work.losses))


def length(task: Task, images: int, pieces: Pieces, kept: Mapping[str, Kept]) -> int:
    """In how many steps a task is told: those of all its layers."""
    return _each(task, images) * sum(len(_treated(task, pieces, k, kept)) for k in numbers_of(task.blocks, pieces))


def _treated(task: Task, pieces: Pieces, number: int, kept: Mapping[str, Kept]) -> list[Layer]:
    """The layers of a piece that the task treats."""
    return [layer for layer in layers_of(pieces, number, kept) if is_solvable(layer, task.stage)]


def left_of(
    pieces: Pieces, numbers: Iterable[int], kept: Mapping[str, Kept], is_treated: Callable[[Layer], bool]
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
    layers: Mapping[int, Sequence[Layer]],
    values: Sequence[Tensor],
    treat: Callable[[Layer, Seen], None],
) -> Sequence[Tensor]:
    """Lead chunks of what reaches the first of some pieces through both networks, and come by the layers of each.

    What is between these pieces is the teacher's. A layer is treated before what follows it has run. Returns what the
    teacher gives at the end.
    """
    numbers = sorted(layers)
    own = theirs = values
    for k in range(numbers[0], numbers[-1] + 1):
        teacher = _Beside(Walk(pieces.teacher[k - 1], theirs))
        student = Walk(_stands(pieces, numbers, k), own)
        here = {layer.entry: layer for layer in layers.get(k, ())}
        for path, reads in student.layers():
            if path in here:
                treat(here[path], Seen(reads, teacher.reads(here[path].teacher_layer)))
        own, theirs = student.values, teacher.values()
    return theirs


class _Layerwise:
    """How far the walk through both networks has come, and what is kept of it."""

    def __init__(self, task: Task, material: Material, unit: Unit, listen: Listener, note: Note) -> None:
        self.task, self.material, self.unit, self.note = task, material, unit, note
        self.moving = nn.ModuleList(moving_modules(task, material.pieces))
        self.each = _each(task, material.images)
        self.total = length(task, material.images, material.pieces, material.kept)
        saved = unit.state
        self.done = 0 if saved is None else int(saved["layers"])
        self.inner: dict[str, Any] | None = None if saved is None else saved["inner"]
        self.losses: list[float] = [] if saved is None else list(saved["losses"])
        if saved is not None:
            self.moving.load_state_dict(saved["weights"])
        self.at, self.kept = 0, time.monotonic()
        self.told = listen
        stage, pieces = task.stage.name, material.pieces
        treats = partial(is_solvable, stage=task.stage)
        if left := left_of(pieces, numbers_of(task.blocks, pieces), material.kept, treats):
            treated = self.total // self.each
            listen(Warned(f"stage {stage} treats {treated} layers and leaves {len(left)} as they are: {few(left)}"))
        listen(Began(stage, task.first, task.last, self.done * self.each, self.total, 0, 0))

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
        pieces, numbers = self.material.pieces, numbers_of(self.task.blocks, self.material.pieces)
        layers = {k: _treated(self.task, pieces, k, self.material.kept) for k in numbers}
        side_by_side(pieces, layers, self._looked_at(), self._treat)

    def _looked_at(self) -> list[Tensor]:
        """What reaches the first block of as many views as the stage asks for and there is room for."""
        task, material = self.task, self.material
        batch, views = task.batch(material.images), len(material.answers.views)
        steps = task.steps(material.images)
        order = Order(views, batch, material.seed, task.name)
        first = material.answers.at(task.first - 1, order.at(0))
        room = max(1, int(material.memory // (_ROOM * self._bytes(first) + 1)))
        most = steps if task.stage.optimizer == "least-squares" else min(steps, max(1, views // batch))
        if room < most:
            seen = f"sees {room * batch:,} views and not {most * batch:,}"
            self.told(Warned(f"stage {task.stage.name} {seen}: more do not fit {material.memory / 2**30:.1f} GiB"))
        rest = (material.answers.at(task.first - 1, order.at(step)) for step in range(1, min(most, room)))
        return [first, *rest]

    def _bytes(self, features: Tensor) -> int:
        """What is alive in both networks, at most, with one batch."""
        most, pieces = 0, self.material.pieces
        numbers = numbers_of(self.task.blocks, pieces)
        own = theirs = [features]
        for k in range(self.task.first, numbers[-1] + 1):
            teacher, student = Walk(pieces.teacher[k - 1], theirs), Walk(_stands(pieces, numbers, k), own)
            _to_the_end(teacher)
            _to_the_end(student)
            most = max(most, teacher.bytes + student.bytes)
            own, theirs = student.values, teacher.values
        return most

    def _treat(self, layer: Layer, seen: Seen) -> None:
        self.at += 1
        if self.at <= self.done:
            return
        loss = self._solve(layer, seen) if self.task.stage.optimizer == "least-squares" else self._train(layer, seen)
        self.losses.append(loss)
        self.done, self.inner = self.at, None
        if time.monotonic() - self.kept > _KEEP_EVERY:
            self.keep(0, None)

    def _train(self, layer: Layer, seen: Seen) -> float:
        done, total, task = self.done * self.each, self.total, self.task

        def told(event: Event) -> None:
            if isinstance(event, Stepped):
                self.told(replace(event, step=done + event.step, steps=total))
            elif not isinstance(event, Began):
                self.told(event)

        training = LayerTraining(task, layer, seen, self.material, self)
        return fit(training, told, lambda step, loss: self.note(done + step, loss))

    def _solve(self, layer: Layer, seen: Seen) -> float:
        task, began = self.task, time.monotonic()
        loss = solve(layer, seen, task.stage)
        self.note(self.at, loss)
        speed = sum(map(len, seen.own)) / max(time.monotonic() - began, 1e-9)
        self.told(Stepped(task.stage.name, task.first, task.last, self.at, self.total, loss, speed))
        return loss


class _Beside:
    """The teacher's walk, led to the layers that the student's asks for; both come by them in one order."""

    def __init__(self, walk: Walk) -> None:
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


def _to_the_end(walk: Walk) -> None:
    for _ in walk.layers():
        pass
