"""Set the steps of each task, so that every recipe gets the same number of steps or seconds.

The tasks of a recipe keep their proportions. A budget in seconds is converted to steps before training, by timing a few
steps of each task, so that results do not depend on the current machine load. Tasks that are solved by least squares
have no steps and do not change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from graftcli.comparison.profile import StepTimes, profile_run, step_repeats, task_with_steps
from graftcli.distributed.world import SINGLE, World
from graftcli.errors import UsageError
from graftcli.events import Listener, Profiled, Warned
from graftcli.graft.schedule import Schedule
from graftcli.graft.training.rate_trial import with_trials
from graftcli.graft.training.tasks import Task
from graftcli.recipe import Recipe, Stage
from graftcli.runs.config import RunConfig
from graftcli.runs.prepare import PreparedRun, prepare_run, recipe_of, with_stages

_TARGET_SHARE = 0.95  # of the budget in seconds
_MAX_STEPS = 10**7  # upper limit of the search


@dataclass(frozen=True)
class Budget:
    """The budget of each cell, in steps or seconds; with neither, the steps of its recipe."""

    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and self.seconds is not None:
            raise UsageError("--steps and --seconds are both given.", "Give one of them.")

    def describe(self, steps_scale: float) -> str:
        """Describe the budget for the report."""
        if self.steps is not None:
            return f"{self.steps:,} steps per cell, divided among its tasks in the proportions of the recipe"
        if self.seconds is not None:
            return (
                f"{self.seconds:g} s per cell: a short profiling run, not included in this time,"
                " sets the number of steps, which is the same for all draws of a method"
            )
        return "the steps of each recipe" if steps_scale == 1 else f"{steps_scale:g} of the steps of each recipe"


@dataclass(frozen=True)
class BudgetedRecipe:
    """A recipe with as many steps as a budget allows."""

    recipe: Recipe
    steps: int
    expected: float | None  # seconds; None for a budget in steps


@dataclass(frozen=True)
class TaskLength:
    """The length of a task: `steps`, repeated for each of its `repeats` layers."""

    task: Task
    steps: int
    repeats: int = 1

    @property
    def is_solved(self) -> bool:
        """Whether the task takes no training steps: it is solved by least squares, or has no layers to train."""
        return self.task.stage.optimizer == "least-squares" or not self.repeats


def fit_to_budget(
    config: RunConfig, blocks: str | None, budget: Budget, folder: Path, listen: Listener, world: World = SINGLE
) -> BudgetedRecipe:
    """Return the recipe of `config` with the steps that a budget allows; temporary files are written to `folder`.

    The run is timed with the threads that a cell has while the other processes of `world` train other cells.
    """
    prepared = prepare_run(config, blocks, listen)
    recipe, images, lengths = prepared.recipe, prepared.schedule.images, _task_lengths(prepared)
    if all(length.is_solved for length in lengths):
        listen(Warned(f"recipe {recipe.name} is solved by least squares: the budget does not apply"))
        return BudgetedRecipe(recipe_of(config.how), 0, None)
    if budget.seconds is None:
        assert budget.steps is not None  # a budget has steps or seconds
        shared, expected = share_steps(lengths, budget.steps, recipe.name), None
    else:
        step_times = profile_run(prepared, folder, world)
        shared = _longest(lengths, step_times, prepared.schedule, _TARGET_SHARE * budget.seconds)
        expected = _seconds(shared, step_times, prepared.schedule)
        if expected > budget.seconds:
            listen(
                Warned(f"{recipe.name} takes at least {expected:.0f} s, more than the budget of {budget.seconds:g} s")
            )
        listen(Profiled(_total(shared), expected))
    budgeted = with_steps(recipe_of(config.how), shared, len(prepared.plan.blocks), images)
    return BudgetedRecipe(budgeted, _total(shared), expected)


def _task_lengths(prepared: PreparedRun) -> list[TaskLength]:
    """Return the tasks of a run with the lengths of its recipe."""
    schedule = prepared.schedule
    repeats = step_repeats(prepared, schedule.tasks)
    return [TaskLength(task, schedule.steps(task), repeats[task.name]) for task in schedule.tasks]


def _total(lengths: Sequence[TaskLength]) -> int:
    return sum(length.steps * length.repeats for length in lengths if not length.is_solved)


def share_steps(lengths: Sequence[TaskLength], total: int, recipe: str) -> list[TaskLength]:
    """Divide `total` steps among the tasks in the proportions of the recipe, at least one each.

    The sum can be slightly lower, because all layers of a layer-wise task get the same number.
    """
    trained = [length for length in lengths if not length.is_solved]
    minimum = sum(length.repeats for length in trained)
    if total < minimum:
        found = f"{total} steps are fewer than the {minimum} tasks and layers that recipe {recipe} trains."
        raise UsageError(found, f"Give at least {minimum}.")
    exact = [total * length.steps / _total(trained) for length in trained]
    steps = [max(1, int(share)) for share in exact]

    def remaining() -> int:
        return total - sum(n * length.repeats for n, length in zip(steps, trained, strict=True))

    while remaining() < 0:
        longest = max((i for i in range(len(steps)) if steps[i] > 1), key=lambda i: steps[i] - exact[i])
        steps[longest] -= 1
    while extendable := [i for i, length in enumerate(trained) if length.repeats <= remaining()]:
        steps[max(extendable, key=lambda i: exact[i] - steps[i])] += 1
    given = iter(steps)
    return [length if length.is_solved else replace(length, steps=next(given)) for length in lengths]


def with_steps(recipe: Recipe, lengths: Sequence[TaskLength], blocks: int, images: int) -> Recipe:
    """Return the recipe with these steps; tasks that are not listed keep their steps."""
    steps = {(length.task.stage.name, length.task.unit): length.steps for length in lengths}
    return with_stages(recipe, [_with_steps(stage, steps, blocks, images) for stage in recipe.stages])


def _with_steps(stage: Stage, steps: Mapping[tuple[str, int], int], blocks: int, images: int) -> Stage:
    if stage.optimizer == "least-squares":
        return stage
    tasks = [Task("", stage, unit, (1,)) for unit in range(max(1, len(stage.units(blocks))))]
    each = tuple(steps.get((stage.name, task.unit), task.steps(images)) for task in tasks)
    return stage.model_copy(update={"steps": each, "epochs": None, "batch": tasks[0].batch(images)})


# -- seconds ------------------------------------------------------------------------------------------------------


def _longest(
    lengths: Sequence[TaskLength], step_times: StepTimes, schedule: Schedule, seconds: float
) -> list[TaskLength]:
    """Return the longest lengths that are expected to take `seconds` at most, else the shortest possible."""
    name = schedule.recipe.name
    low, high = sum(length.repeats for length in lengths if not length.is_solved), _MAX_STEPS
    while low < high:
        middle = (low + high + 1) // 2
        if _seconds(share_steps(lengths, middle, name), step_times, schedule) <= seconds:
            low = middle
        else:
            high = middle - 1
    return share_steps(lengths, low, name)


def _seconds(lengths: Sequence[TaskLength], step_times: StepTimes, schedule: Schedule) -> float:
    """Return the expected time of a run with these lengths."""
    images = schedule.images
    schedule = schedule.with_tasks(
        [item.task if item.is_solved else task_with_steps(item.task, item.steps, images) for item in lengths]
    )
    steps = {length.task.name: length.repeats * with_trials(length.task.stage, length.steps) for length in lengths}
    names = [length.task.name for length in lengths if not length.is_solved]
    trained = sum(step_times.step[name] * steps[name] for name in names)
    return step_times.rest + step_times.view * schedule.total_views + step_times.image * schedule.synthetic + trained
