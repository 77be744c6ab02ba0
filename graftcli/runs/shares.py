"""A run before it is started: which process does what, and where the run would store its data.

Work is in units of the teacher's forward pass on one view.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from graftcli.distributed.deal import deal
from graftcli.environment.devices import computes_bfloat16, device_named
from graftcli.events import MemoryPlanned
from graftcli.graft.backend.precision import Precision
from graftcli.graft.data.memory_table import memory_table
from graftcli.graft.initialize.frozen_blocks import frozen_blocks
from graftcli.graft.schedule import Schedule, schedule_of
from graftcli.graft.surgery.seams import seams
from graftcli.graft.training.pieces import pieces
from graftcli.graft.training.task_cost import passes_per_view
from graftcli.graft.training.tasks import are_independent, stages_of
from graftcli.models.cuts.plan import Plan
from graftcli.recipe import Recipe
from graftcli.runs.config import TrainOptions
from graftcli.runs.machine_settings import engine_settings_of, machine_settings

_IMAGES = 100  # number of images assumed for a recipe with epochs
_FLOAT = 4  # bytes


@dataclass(frozen=True)
class Share:
    """One part of the work of a run."""

    name: str  # "teacher features", or a task
    cost: float  # in teacher passes over one view
    rank: int | None  # the process that does it; None if all processes share each batch
    exchanged: int = 0  # bytes that each process sends

    @property
    def is_shared(self) -> bool:
        """Whether all processes share it."""
        return self.rank is None


@dataclass(frozen=True)
class Shares:
    """The work of a run, assigned to `size` processes, stage by stage."""

    size: int
    stages: tuple[tuple[Share, ...], ...]

    @property
    def cost(self) -> float:
        """The work that a single process would do."""
        return sum(share.cost for stage in self.stages for share in stage)

    @property
    def longest(self) -> float:
        """The work on the critical path: in each stage, that of the process with the most work."""
        return sum(self._longest(stage) for stage in self.stages)

    @property
    def speed_up(self) -> float:
        """The speed-up over one process, without communication."""
        return self.cost / self.longest

    def _longest(self, stage: Sequence[Share]) -> float:
        shared = sum(share.cost for share in stage if share.is_shared) / self.size
        loads = [sum(share.cost for share in stage if share.rank == rank) for rank in range(self.size)]
        return shared + max(loads)


def shares_of(plan: Plan, recipe: Recipe, size: int) -> Shares:
    """Assign the tasks of a recipe to processes, as a run does."""
    schedule = schedule_of(recipe, _IMAGES, len(plan.blocks), None, frozen_blocks(recipe, plan))
    views = Share("teacher features", float(schedule.total_views), None)
    return Shares(size, ((views,), *_stages(schedule, plan, size)))


def memory_of(plan: Plan, recipe: Recipe, how: TrainOptions) -> MemoryPlanned:
    """Return what a run in the current folder would store and where, without its images."""
    device = device_named(how.device)
    amp = computes_bfloat16(device) if how.amp is None else how.amp
    settings = engine_settings_of(how, machine_settings(how, device, Path.cwd(), 0), Precision(device, amp))
    schedule = schedule_of(recipe, _IMAGES, len(plan.blocks), None, frozen_blocks(recipe, plan))
    parts = memory_table(schedule, pieces(plan, seams(plan, recipe.adapters.where)), settings)
    return MemoryPlanned(schedule.total_views, parts)


def _stages(schedule: Schedule, plan: Plan, size: int) -> Iterator[tuple[Share, ...]]:
    for tasks in stages_of(schedule.tasks):
        costs = [schedule.steps(task) * schedule.batch(task) * passes_per_view(task, plan) for task in tasks]
        weights = [_FLOAT * sum(plan.blocks[block - 1].student.params for block in task.blocks) for task in tasks]
        if are_independent(tasks):
            owners: Sequence[int | None] = deal(costs, size)
        else:  # layers are trained one after another in one process
            owners = [0 if task.stage.train == "layers" else None for task in tasks]
        yield tuple(
            Share(task.name, cost, owner, weight if owner is not None else weight * schedule.steps(task))
            for task, cost, owner, weight in zip(tasks, costs, owners, weights, strict=True)
        )
