"""The schedule of a run: its tasks, steps, views and synthetic images."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from graftcli.graft.training.tasks import Task, tasks
from graftcli.recipe import Recipe
from graftcli.recipe.values import Augment

_VIEWS_PER_SYNTHETIC = 400  # views of the longest task for each synthetic image, at least
_FEWEST_SYNTHETIC = 32  # fewer synthetic images are not worth their time


@dataclass(frozen=True)
class Schedule:
    """The tasks of a run in order, with their steps, views and synthetic images."""

    recipe: Recipe
    images: int  # training images
    tasks: tuple[Task, ...]

    def steps(self, task: Task) -> int:
        """The number of steps of a task."""
        return task.steps(self.images)

    def batch(self, task: Task) -> int:
        """The number of views per step of a task."""
        return task.batch(self.images)

    def augment(self, task: Task) -> Augment:
        """The augmentation of a task: its stage's, else the recipe's."""
        return task.stage.augment or self.recipe.views.augment

    def sharing_views(self, task: Task, candidates: Sequence[Task]) -> list[Task]:
        """Return the candidates that train on the same views as the task."""
        return [other for other in candidates if self.augment(other) == self.augment(task)]

    @cached_property
    def views(self) -> dict[Augment, int]:
        """Views per image for each augmentation: the number that the longest task uses, up to the recipe's limit."""
        views: dict[Augment, int] = {}
        for task in self.tasks:
            needed = -(-self._view_count(task) // self.images)
            augment = self.augment(task)
            views[augment] = max(
                views.get(augment, 0), min(needed, self.recipe.views.max_per_image(self.images) or needed)
            )
        return views

    @property
    def total_views(self) -> int:
        """All views of the run; the teacher processes each once."""
        return self.images * sum(self.views.values())

    @cached_property
    def synthetic(self) -> int:
        """Number of synthetic images; 0 for a short run."""
        options = self.recipe.views.synthetic
        if options is None or not self.tasks:
            return 0
        count = min(options.count_for(self.images), max(map(self._view_count, self.tasks)) // _VIEWS_PER_SYNTHETIC)
        return count if count >= _FEWEST_SYNTHETIC else 0

    def with_tasks(self, changed: Sequence[Task]) -> "Schedule":
        """The same schedule for other tasks."""
        return replace(self, tasks=tuple(changed))

    def _view_count(self, task: Task) -> int:
        """Number of views that a task trains on, with repetitions."""
        return self.steps(task) * self.batch(task)


def schedule_of(
    recipe: Recipe, images: int, blocks: int, chosen: Collection[int] | None = None, frozen: Collection[int] = ()
) -> Schedule:
    """Build the schedule of a recipe for networks of `blocks` blocks; by default all of them are replaced."""
    replaced = range(1, blocks + 1) if chosen is None else chosen
    return Schedule(recipe, images, tuple(tasks(recipe, blocks, replaced, frozen)))
