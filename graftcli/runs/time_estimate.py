"""How long a run will take, told while the teacher looks at its first views: what a multiply-add takes there, it takes
later on.

This is rough, but early: on a processor a long run's looks alone may take an hour. A rehearsal is exact, and not free.
"""

import time
from collections.abc import Callable

from graftcli.events import Event, Listener, TeacherPass, TimeEstimated
from graftcli.graft.data.view_counts import looks
from graftcli.graft.training.task_cost import looks_worth
from graftcli.graft.training.tasks import tasks
from graftcli.runs.prepare import PreparedRun, trained_on

_WATCHED = 3.0  # seconds of looking before anything is said
_LONG = 600.0  # who waits for less sees the end coming


def foreseeing(
    start: PreparedRun, behind: Callable[[str], float], listen: Listener, clock: Callable[[], float] = time.monotonic
) -> Listener:
    """A listener that passes everything on, and tells of a long run once, soon after the teacher began to look.

    `behind` gives the steps of a unit that were taken before. Nothing is said on a GPU, where multiply-adds do not tell
    the time of small networks, and where a recipe goes from layer to layer, its steps as long as a layer is large.
    """
    images = trained_on(start)
    every = tasks(start.recipe, len(start.plan.blocks), start.blocks, start.frozen)
    if start.device.type != "cpu" or any(task.stage.train == "layers" for task in every):
        return listen
    left = {task: int(max(0, task.steps(images) - max(0, behind(task.name)))) for task in every}
    trained = sum(steps * task.batch(images) * looks_worth(task, start.plan) for task, steps in left.items())
    views = images * sum(looks(start.recipe, every, images).values())
    first: tuple[float, int] | None = None  # when the present looks began, and at which view
    told = False

    def tell(event: Event) -> None:
        nonlocal first, told
        listen(event)
        if told or not isinstance(event, TeacherPass):
            return
        now = clock()
        if first is None or event.done <= first[1]:
            first = (now, event.done)
            return
        spent, seen = now - first[0], event.done - first[1]
        if spent >= _WATCHED or event.done == event.total:
            told = True
            seconds = spent / seen * (views - first[1] + trained)
            if seconds >= _LONG:
                listen(TimeEstimated(sum(left.values()), seconds))

    return tell
