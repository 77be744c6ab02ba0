"""Decides how a task is scored: on how many views, and at which of its steps."""

from collections.abc import Callable, Mapping
from functools import partial

from graftcli.distributed.world import World
from graftcli.graft.layerwise.stage import layerwise_steps
from graftcli.graft.schedule import Schedule
from graftcli.graft.training.judge import Judge, Score, Watch, scoring_steps, scoring_views
from graftcli.graft.training.pieces import Pieces
from graftcli.graft.training.task_cost import passes_per_view
from graftcli.graft.training.tasks import Task
from graftcli.models.channel_selection import ChannelSelection
from graftcli.models.cuts.plan import Plan


class TaskScoring:
    """The length, the cost and the scoring of each task of a schedule."""

    def __init__(
        self, plan: Plan, pieces: Pieces, schedule: Schedule, kept: Mapping[str, ChannelSelection], judge: Judge
    ) -> None:
        self.plan, self.pieces, self.schedule, self.kept, self.judge = plan, pieces, schedule, kept, judge

    def length(self, task: Task) -> int:
        """Return the steps of a task; of a layer-wise task, the sum over its layers."""
        if task.stage.train == "layers":
            return layerwise_steps(task, self.schedule.images, self.pieces, self.kept)
        return self.schedule.steps(task)

    def work(self, task: Task) -> float:
        """Return the cost of a task in forward passes of the teacher on one view."""
        return self.length(task) * self.schedule.batch(task) * passes_per_view(task, self.plan)

    def watch(self, task: Task, world: World, *, is_random: bool) -> Watch:
        """Score the network before a task, and choose the steps at which it is scored again.

        A task that starts from random weights is scored only at its end.
        """
        work = self.work(task)
        measure = self.measure(task, work, world)
        is_recalibrated = task.stage.batchnorm == "recalibrate"  # its statistics are only valid at the end
        scoring_cost = scoring_views(work, self._view_cost) * self._view_cost
        steps = () if is_recalibrated or is_random else scoring_steps(self.length(task), work, scoring_cost)
        return Watch(measure(), steps, measure)

    def measure(self, task: Task, work: float, world: World) -> Callable[[], Score]:
        """Return what scores the network with the blocks of a task, on as many views as its `work` allows."""
        scored = task if task.stage.train != "layers" and task in self.schedule.tasks else None
        views = scoring_views(work, self._view_cost)
        measure = partial(self.judge.measured, (*task.before, *task.blocks), views, scored)
        return partial(world.of_first, measure)  # all processes must make the same decisions

    @property
    def _view_cost(self) -> float:
        """Cost of scoring one view, in the same unit as `work`."""
        return 1 + self.plan.student.macs / max(1, self.plan.teacher.macs)
