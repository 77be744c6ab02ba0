"""How many steps each unit of a recipe gets, so that every recipe has the same number of steps or of seconds.

Between its units a recipe keeps its own shares. Seconds are not counted while a cell trains, for its result would hang
on the machine's mood: a few steps of each unit are timed beforehand, and from then on the number of steps is fixed.
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from graftcli.api.asked import Asked, Ready, ready
from graftcli.api.checking import checked
from graftcli.api.running import fixed_now, settings_of
from graftcli.errors import UsageError
from graftcli.events import Event, Listener, Looked, Rehearsed, Warned
from graftcli.graft.run import divide, looks, run
from graftcli.graft.stages import Task, tasks
from graftcli.recipe import Recipe

_REHEARSED = 8  # steps of each unit that are timed
_SHARE = 0.95  # of the seconds, that is aimed at
_MOST = 10**7  # steps that any budget buys


@dataclass(frozen=True)
class Length:
    """A recipe's units in order, and how many steps each is to have."""

    tasks: tuple[Task, ...]
    steps: tuple[int, ...]

    @property
    def total(self) -> int:
        return sum(self.steps)

    def overrides(self, recipe: Recipe, blocks: int, images: int) -> tuple[str, ...]:
        """The recipe's settings that give its units these steps; a unit that is not trained keeps its own."""
        said = {(task.stage.name, task.unit): steps for task, steps in zip(self.tasks, self.steps, strict=True)}
        found = []
        for stage in recipe.stages:
            units = range(len(stage.units(blocks)))
            each = [said.get((stage.name, i), Task("", stage, i, (1,)).steps(images)) for i in units]
            found += [f"stages.{stage.name}.epochs=null", f"stages.{stage.name}.steps={each or [1]}"]
        return tuple(found)


def shared_out(recipe: Recipe, blocks: int, chosen: Sequence[int], images: int, total: int) -> Length:
    """`total` steps for the units, in the proportions of the recipe; each has at least one."""
    every = tasks(recipe, blocks, chosen)
    if total < len(every):
        found = f"{total} steps are fewer than the {len(every)} units that recipe {recipe.name} trains."
        raise UsageError(found, f"Give at least {len(every)}.")
    return Length(tuple(every), tuple(_shares([task.steps(images) for task in every], total)))


def _shares(own: Sequence[int], total: int) -> list[int]:
    """Whole numbers from 1 in the proportions of `own`, that add up to `total`."""
    exact = [total * steps / sum(own) for steps in own]
    found = [max(1, int(steps)) for steps in exact]
    while sum(found) != total:
        step = 1 if sum(found) < total else -1
        open_ = [i for i in range(len(own)) if found[i] + step >= 1]
        i = max(open_, key=lambda i: step * (exact[i] - found[i]))
        found[i] += step
    return found


# -- seconds ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pace:
    """What a rehearsal measured, in seconds: a step of each unit, the teacher's look at one view, and all the rest."""

    step: tuple[float, ...]
    view: float
    rest: float

    def seconds(self, length: Length, recipe: Recipe, images: int) -> float:
        """How long a run of this length takes."""
        every = [replace(t, stage=_lasting(t, n)) for t, n in zip(length.tasks, length.steps, strict=True)]
        views = looks(recipe, every, images) * images
        return self.rest + self.view * views + sum(s * n for s, n in zip(self.step, length.steps, strict=True))


def _lasting(task: Task, steps: int) -> Any:
    return task.stage.model_copy(update={"steps": (steps,) * (task.unit + 1), "epochs": None})


@dataclass(frozen=True)
class Budget:
    """What every cell may spend; with neither of both, what its recipe says."""

    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and self.seconds is not None:
            raise UsageError("--steps and --seconds are both given.", "Give one of them.")

    def said(self, steps_scale: float) -> str:
        """What every cell may spend, in words."""
        if self.steps is not None:
            return f"{self.steps:,} steps a cell, shared out among its units as the recipe has it"
        if self.seconds is not None:
            return (
                f"{self.seconds:g} s a cell: as many steps as were expected to end in time after a rehearsal of a few,"
                " which is not counted; all draws of a method have the same number"
            )
        return "each recipe's own steps" if steps_scale == 1 else f"{steps_scale:g} of each recipe's own steps"


@dataclass(frozen=True)
class Paced:
    """The settings of a recipe that make it as long as a budget allows."""

    overrides: tuple[str, ...]
    steps: int
    expected: float | None  # seconds, where they were rehearsed


def paced(asked: Asked, blocks: str | None, budget: Budget, folder: Path, listen: Listener) -> Paced:
    """The steps of each unit within a budget; a rehearsal writes to `folder`, and leaves nothing there."""
    start = ready(asked, blocks, listen)
    recipe, count, images = start.recipe, len(start.plan.blocks), trained_on(start)
    if budget.seconds is None:
        assert budget.steps is not None  # a budget is one of the two
        length, expected = shared_out(recipe, count, start.blocks, images, budget.steps), None
    else:
        pace = _rehearse(start, folder)
        length = _longest(recipe, count, start.blocks, images, pace, _SHARE * budget.seconds)
        expected = pace.seconds(length, recipe, images)
        if expected > budget.seconds:
            listen(Warned(f"{recipe.name} takes {expected:.0f} s at the least, more than {budget.seconds:g} s"))
        listen(Rehearsed(length.total, expected))
    return Paced(length.overrides(recipe, count, images), length.total, expected)


def _longest(recipe: Recipe, blocks: int, chosen: Sequence[int], images: int, pace: Pace, seconds: float) -> Length:
    """The longest run that is expected to end in time; the shortest there is where none is."""
    low, high = len(pace.step), _MOST
    while low < high:
        middle = (low + high + 1) // 2
        if pace.seconds(shared_out(recipe, blocks, chosen, images, middle), recipe, images) <= seconds:
            low = middle
        else:
            high = middle - 1
    return shared_out(recipe, blocks, chosen, images, low)


def trained_on(start: Ready) -> int:
    """How many of the images are trained on; the others are held out."""
    return len(divide(start.train, start.held, start.asked.how.seed)[0])


def _rehearse(start: Ready, folder: Path) -> Pace:
    """A few steps of each unit, with as large a share of what the teacher says in memory as the run will have."""
    recipe, images = start.recipe, trained_on(start)
    stages = tuple(s.model_copy(update={"steps": (_REHEARSED,), "epochs": None}) for s in recipe.stages)
    short = recipe.model_copy(update={"stages": stages})
    whole, few = (tasks(one, len(start.plan.blocks), start.blocks) for one in (recipe, short))
    fixed = fixed_now(start, folder)
    share = min(1.0, looks(short, few, images) / looks(recipe, whole, images))
    settings = settings_of(start, {**fixed, "memory": int(share * fixed["memory"])})
    torch.set_num_threads(fixed["threads"])
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=folder, prefix=".rehearsal-") as scratch:
        watch = _Watch(Path(scratch))
        checked(start.plan.teacher.network, start.train, start.fit, settings.how.device)
        run(start.plan, start.train, start.fit, short, settings, watch, watch.hear, start.held)
    took = time.monotonic() - began
    step = tuple(watch.step(task.name) for task in few)
    return Pace(step, watch.view, max(0.0, took - watch.looking - _REHEARSED * sum(step)))


@dataclass
class _Watch:
    """A keeper that keeps nothing but the times at which the engine came by."""

    folder: Path
    marks: dict[str, list[float]] = field(default_factory=dict)
    looked: list[tuple[float, int]] = field(default_factory=list)

    def unit(self, name: str) -> "_Forgetful":
        return _Forgetful()

    def metric(self, record: Mapping[str, Any]) -> None:
        self.marks.setdefault(record["unit"], []).append(time.monotonic())

    def hear(self, event: Event) -> None:
        if isinstance(event, Looked):
            self.looked.append((time.monotonic(), event.done))

    def step(self, unit: str) -> float:
        """A step's time; the first one, which finds nothing ready, and the unit's end are none."""
        times = [later - earlier for earlier, later in pairwise(self.marks.get(unit, [])[:-1])]
        return median(times) if times else 0.0

    @property
    def looking(self) -> float:
        return self.looked[-1][0] - self.looked[0][0] if self.looked else 0.0

    @property
    def view(self) -> float:
        return self.looking / max(1, self.looked[-1][1] - self.looked[0][1]) if self.looked else 0.0


class _Forgetful:
    """A unit that always starts anew."""

    state: dict[str, Any] | None = None
    finished: tuple[dict[str, Tensor], dict[str, Any]] | None = None

    def keep(self, step: int, state: dict[str, Any]) -> None: ...
    def finish(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None: ...
