"""Runs the tasks of a stage in the processes of a job.

Independent tasks are dealt, and their results exchanged. Layer-wise tasks are trained by one process. All processes
share the batches of the other tasks.
"""

from collections.abc import Sequence
from dataclasses import asdict

from graftcli.distributed.deal import deal
from graftcli.distributed.world import SINGLE, World
from graftcli.errors import UsageError
from graftcli.events import Event, RateChosen, TaskFinished, Warned
from graftcli.graft.schedule import Schedule
from graftcli.graft.training.judge import Watch, verdict_from_facts
from graftcli.graft.training.runner import TaskRunner, TrainFacts
from graftcli.graft.training.state import clone_tensors
from graftcli.graft.training.tasks import Task, are_independent, join_tasks, stages_of

_FORWARDED = (RateChosen, TaskFinished, Warned)  # events of other processes that the user sees


def run_stage(runner: TaskRunner, tasks: Sequence[Task]) -> None:
    """Run the tasks of one stage; blocks that are trained separately are then scored together."""
    joint = join_tasks(tasks)
    if joint is None or runner.is_random(joint):
        _run_all(runner, tasks)
        return
    modules, scoring = runner.modules(joint), runner.scoring
    start, work = clone_tensors(modules.state_dict()), sum(map(scoring.work, tasks))
    measure = scoring.measure(joint, work, runner.world)
    before = None if runner.unit(joint).finished else measure()
    _run_all(runner, tasks)
    if before is None:
        runner.restore(joint, modules)
    else:
        facts: TrainFacts = {"loss": None, "lr_factor": 1.0, "stopped": None}
        steps = sum(map(scoring.length, tasks))
        verdict = runner.keep_best(joint, modules, start, Watch(before, (), measure), steps, facts)
        changed = modules.state_dict() if verdict.is_setback else {}
        runner.unit(joint).finish(changed, {"verdict": asdict(verdict)})


def check_batches(schedule: Schedule, world: World) -> None:
    """Raise if several processes would share batches that have fewer views than there are processes."""
    for tasks in stages_of(schedule.tasks):
        batch, size = min(map(schedule.batch, tasks)), world.size
        if batch < size and not _are_dealt(tasks):
            raise UsageError(
                f"stage {tasks[0].stage.name} trains on batches of {batch}, and {size} processes share each batch.",
                f"Start at most {batch} processes, or give a larger --batch.",
            )


def _are_dealt(tasks: Sequence[Task]) -> bool:
    """Whether each task of a stage is trained by one process."""
    return are_independent(tasks) or tasks[0].stage.train == "layers"


def _run_all(runner: TaskRunner, tasks: Sequence[Task]) -> None:
    """Run tasks: with other processes, at the same time where they are independent, else sharing each batch."""
    if runner.world.size == 1 or not _are_dealt(tasks):
        for task in tasks:
            runner.run(task)
    elif are_independent(tasks):
        _run_dealt(runner, tasks)
    else:  # layers are trained one after another by one process
        for task in tasks:
            _run_dealt(runner, [task])


def _run_dealt(runner: TaskRunner, tasks: Sequence[Task]) -> None:
    """Run each task in one process, and exchange the results."""
    waiting = [task for task in tasks if not runner.unit(task).finished]
    for task in tasks:
        if task not in waiting:
            runner.run(task)
    if not waiting:
        return
    runner.caches.cache_for(waiting[0], runner.unfinished)  # all processes take part in the teacher's pass
    owners = deal([runner.scoring.work(task) for task in waiting], runner.world.size)
    _run_own(runner, [task for task, owner in zip(waiting, owners, strict=True) if owner == runner.world.rank])
    for task, owner in zip(waiting, owners, strict=True):
        _exchange(runner, task, owner)


def _run_own(runner: TaskRunner, tasks: Sequence[Task]) -> None:
    """Run the tasks of this process by itself, then report what the other processes have to tell."""
    world, listen, events = runner.world, runner.listen, list[Event]()

    def collect(event: Event) -> None:
        if isinstance(event, _FORWARDED):
            events.append(event)

    runner.world, runner.listen = SINGLE, listen if world.is_first else collect
    for task in tasks:
        runner.run(task)
    runner.world, runner.listen = world, listen
    for event in (event for sent in world.gather(events) for event in sent):
        listen(event)


def _exchange(runner: TaskRunner, task: Task, owner: int) -> None:
    """Take the result of a task from the process that trained it."""
    world, unit = runner.world, runner.store.unit(task.name)
    finished = world.broadcast(unit.finished if world.rank == owner else None, owner)
    assert finished is not None  # the owner has just finished it
    tensors, facts = finished
    if world.rank != owner:
        runner.modules(task).load_state_dict(tensors)
        runner.verdicts[task.name] = verdict_from_facts(facts["verdict"])
        runner.set_trained(task)
        runner.caches.release(task, runner.unfinished)
    if world.is_first and unit.finished is None:  # the processes share no disk
        unit.finish(tensors, facts)
