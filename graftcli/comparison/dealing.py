"""Trains the cells of a comparison in several processes of one job; each cell is trained by one process."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from graftcli.distributed.deal import deal
from graftcli.distributed.world import World
from graftcli.errors import GateError, PairError, UsageError
from graftcli.events import Listener
from graftcli.graft.schedule import schedule_of
from graftcli.runs.config import RunConfig
from graftcli.runs.prepare import recipe_of
from graftcli.runs.running import Request, distill_in_one_process

_BLOCKS, _IMAGES = 4, 100  # of a typical run; costs are only compared with each other


@dataclass(frozen=True)
class CellJob:
    """A cell to train."""

    number: int
    config: RunConfig
    request: Request

    @property
    def cost(self) -> float:
        """The number of views that the cell trains on, roughly."""
        schedule = schedule_of(recipe_of(self.config.how), _IMAGES, _BLOCKS)
        return float(sum(schedule.steps(task) * schedule.batch(task) for task in schedule.tasks))


def train_cell(job: CellJob, world: World, listen: Listener) -> str | None:
    """Train or resume the run of a cell in this process. Returns the reason if training or loading a network failed."""
    request = job.request
    try:
        try:
            distill_in_one_process(job.config, replace(request, overwrite=False), world, listen)
        except UsageError:  # the folder holds a run with other settings
            if not request.overwrite:
                raise
            distill_in_one_process(job.config, request, world, listen)
    except (GateError, PairError) as error:
        return error.message
    return None


def train_cells(jobs: Sequence[CellJob], world: World, listen: Listener) -> Mapping[int, str | None]:
    """Train the cells, assigned to processes longest first, and return the faults by the number of the cell.

    `jobs` is used in the first process only, which sends the jobs to the others.
    """
    jobs = world.broadcast(jobs)
    owners = deal([job.cost for job in jobs], world.size)
    mine = [job for job, owner in zip(jobs, owners, strict=True) if owner == world.rank]
    faults = {job.number: train_cell(job, world.single_process, listen) for job in mine}
    return {number: fault for part in world.gather(faults) for number, fault in part.items()}
