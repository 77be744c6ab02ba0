"""Estimate the time of a run while the teacher processes the first views, assuming constant time per multiply-add.

The estimate is rough but early: on a CPU, the teacher pass of a long run can take an hour by itself. The profiling run
of `comparison/profile.py` is more accurate, but takes additional time.
"""

import time
from collections.abc import Callable

from graftcli.events import Event, Listener, TeacherPass, TimeEstimated
from graftcli.graft.training.task_cost import passes_per_view
from graftcli.runs.prepare import PreparedRun

_MIN_SECONDS = 3.0  # seconds of the teacher pass before the estimate
_LONG_RUN = 600.0  # seconds; shorter runs get no estimate


def with_time_estimate(
    prepared: PreparedRun,
    completed_steps: Callable[[str], float],
    listen: Listener,
    clock: Callable[[], float] = time.monotonic,
) -> Listener:
    """Return a listener that forwards all events and adds one `TimeEstimated` early in a long run.

    `completed_steps` returns the steps of a task that an earlier session completed. No estimate is made on a GPU, where
    multiply-adds do not predict the time of small networks, or for layer-wise stages, whose steps differ in cost.
    """
    schedule = prepared.schedule
    if prepared.device.type != "cpu" or any(task.stage.train == "layers" for task in schedule.tasks):
        return listen
    remaining = {
        task: int(max(0, schedule.steps(task) - max(0, completed_steps(task.name)))) for task in schedule.tasks
    }
    trained = sum(
        steps * schedule.batch(task) * passes_per_view(task, prepared.plan) for task, steps in remaining.items()
    )
    views = schedule.total_views
    start: tuple[float, int] | None = None  # time and view at which the current teacher pass starts
    is_estimated = False

    def forward(event: Event) -> None:
        nonlocal start, is_estimated
        listen(event)
        if is_estimated or not isinstance(event, TeacherPass):
            return
        now = clock()
        if start is None or event.done <= start[1]:
            start = (now, event.done)
            return
        elapsed, processed = now - start[0], event.done - start[1]
        if elapsed >= _MIN_SECONDS or event.done == event.total:
            is_estimated = True
            seconds = elapsed / processed * (views - start[1] + trained)
            if seconds >= _LONG_RUN:
                listen(TimeEstimated(sum(remaining.values()), seconds))

    return forward
