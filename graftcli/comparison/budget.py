"""How many steps each unit of a recipe gets, so that every recipe has the same number of steps or of seconds.

Between its units a recipe keeps its own shares. Seconds are not counted while a cell trains, for its result would hang
on the machine's mood: a few steps of each unit are timed beforehand, and from then on the number of steps is fixed.
What is solved at once has no steps to be shared out: it stays as its recipe has it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from graftcli.comparison.profile import StepTimes, lasting, rehearse, times_of
from graftcli.errors import UsageError
from graftcli.events import Listener, Profiled, Warned
from graftcli.graft.data.view_counts import looks, synthetic
from graftcli.graft.training.rate_trial import with_trials
from graftcli.graft.training.tasks import Task, tasks
from graftcli.recipe import Recipe
from graftcli.runs.config import RunConfig
from graftcli.runs.prepare import PreparedRun, ready, trained_on

_SHARE = 0.95  # of the seconds, that is aimed at
_MOST = 10**7  # steps that any budget buys


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


@dataclass(frozen=True)
class TaskTime:
    """One unit of a recipe: `times` it is trained for `steps`, once or layer by layer."""

    task: Task
    steps: int
    times: int = 1

    @property
    def is_solved(self) -> bool:
        """Whether it takes no steps: it is solved at once, or no layer of the student has a partner."""
        return self.task.stage.optimizer == "least-squares" or not self.times


def paced(asked: RunConfig, blocks: str | None, budget: Budget, folder: Path, listen: Listener) -> Paced:
    """The steps of each unit within a budget; a rehearsal writes to `folder`, and leaves nothing there."""
    start = ready(asked, blocks, listen)
    recipe, images, parts = start.recipe, trained_on(start), _parts(start)
    if all(part.is_solved for part in parts):
        listen(Warned(f"recipe {recipe.name} is solved at once, whatever the budget"))
        return Paced((), 0, None)
    if budget.seconds is None:
        assert budget.steps is not None  # a budget is one of the two
        found, expected = shared_out(parts, budget.steps, recipe.name), None
    else:
        pace = rehearse(start, folder)
        found = _longest(parts, pace, recipe, images, _SHARE * budget.seconds)
        expected = _seconds(found, pace, recipe, images)
        if expected > budget.seconds:
            listen(Warned(f"{recipe.name} takes {expected:.0f} s at the least, more than {budget.seconds:g} s"))
        listen(Profiled(_total(found), expected))
    return Paced(overrides(recipe, found, len(start.plan.blocks), images), _total(found), expected)


def _parts(start: PreparedRun) -> list[TaskTime]:
    """The units that a run would train, for as long as its recipe has it."""
    every = tasks(start.recipe, len(start.plan.blocks), start.blocks, start.frozen)
    images, times = trained_on(start), times_of(start, every)
    return [TaskTime(task, task.steps(images), times[task.name]) for task in every]


def _total(parts: Sequence[TaskTime]) -> int:
    return sum(part.steps * part.times for part in parts if not part.is_solved)


def shared_out(parts: Sequence[TaskTime], total: int, recipe: str) -> list[TaskTime]:
    """The same units with `total` steps, or just fewer where layers need as many each, in the recipe's proportions.

    Each has at least one.
    """
    open_ = [part for part in parts if not part.is_solved]
    least = sum(part.times for part in open_)
    if total < least:
        found = f"{total} steps are fewer than the {least} units and layers that recipe {recipe} trains."
        raise UsageError(found, f"Give at least {least}.")
    exact = [total * part.steps / _total(open_) for part in open_]
    steps = [max(1, int(share)) for share in exact]

    def spare() -> int:
        return total - sum(n * part.times for n, part in zip(steps, open_, strict=True))

    while spare() < 0:
        most = max((i for i in range(len(steps)) if steps[i] > 1), key=lambda i: steps[i] - exact[i])
        steps[most] -= 1
    while fitting := [i for i, part in enumerate(open_) if part.times <= spare()]:
        steps[max(fitting, key=lambda i: exact[i] - steps[i])] += 1
    given = iter(steps)
    return [part if part.is_solved else replace(part, steps=next(given)) for part in parts]


def overrides(recipe: Recipe, parts: Sequence[TaskTime], blocks: int, images: int) -> tuple[str, ...]:
    """The recipe's settings that give its units these steps; a unit that is not trained keeps its own."""
    said = {(part.task.stage.name, part.task.unit): part.steps for part in parts}
    found = []
    for stage in recipe.stages:
        if stage.optimizer == "least-squares":
            continue
        units = range(max(1, len(stage.units(blocks))))
        own = [Task("", stage, i, (1,)) for i in units]
        each = [said.get((stage.name, task.unit), task.steps(images)) for task in own]
        found += [f"stages.{stage.name}.epochs=null", f"stages.{stage.name}.steps={each}"]
        if stage.epochs is not None:  # with which a batch is no larger than one look at each image
            found.append(f"stages.{stage.name}.batch={own[0].batch(images)}")
    return tuple(found)


# -- seconds ------------------------------------------------------------------------------------------------------


def _longest(parts: Sequence[TaskTime], pace: StepTimes, recipe: Recipe, images: int, seconds: float) -> list[TaskTime]:
    """The longest run that is expected to end in time; the shortest there is where none is."""
    low, high = sum(part.times for part in parts if not part.is_solved), _MOST
    while low < high:
        middle = (low + high + 1) // 2
        if _seconds(shared_out(parts, middle, recipe.name), pace, recipe, images) <= seconds:
            low = middle
        else:
            high = middle - 1
    return shared_out(parts, low, recipe.name)


def _seconds(parts: Sequence[TaskTime], pace: StepTimes, recipe: Recipe, images: int) -> float:
    """How long a run of this length is expected to take."""
    every = [part.task if part.is_solved else lasting(part.task, part.steps, images) for part in parts]
    views = images * sum(looks(recipe, every, images).values())
    steps = {part.task.name: part.times * with_trials(part.task.stage, part.steps) for part in parts}
    trained = sum(pace.step[part.task.name] * steps[part.task.name] for part in parts if not part.is_solved)
    return pace.rest + pace.view * views + pace.image * synthetic(recipe, every, images) + trained
