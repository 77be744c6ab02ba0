"""The only training loop."""

import time
from collections.abc import Callable

from graftcli.events import Began, Listener, Stepped, Warned
from graftcli.graft.norms import recalibrate, trained_as
from graftcli.graft.training import Training

_KEEP_EVERY = 8.0  # seconds between two states that a resumed run goes on from
_TELL_EVERY = 0.2  # seconds between two events
_MARKS = 50  # in each task: steps at which its state is copied and its loss is noted
_RECALIBRATING = 16  # batches on which BatchNorm statistics are measured anew


Note = Callable[[int, float], None]


def fit(training: Training, listen: Listener, note: Note = lambda *_: None) -> float:
    """Train what is to be trained; it ends with the last or the averaged weights. Returns the loss's last average.

    `note` is told the loss at the same steps whenever the run is broken off; `listen` at moments that please the eye.
    """
    pace, task = _Pace(), training.task
    stage, steps = task.stage, training.steps
    marked = training.course.step
    listen(Began(stage.name, task.first, task.last, marked, steps, 0, 0))
    with trained_as(stage, training.moving):
        while training.course.step < steps or not training.is_finite():
            course = training.course
            training.score()
            if training.only_falls:
                listen(Warned(f"{training.name} lost agreement at each mark: ended at step {course.step} of {steps}"))
                break
            # at a mark and nowhere else: where a diverging run turns back to must not depend on the clock
            at_mark = course.step % max(1, steps // _MARKS) == 0 and course.step != marked
            # before the loss, whose forward pass moves the statistics of a BatchNorm that is trained
            state = training.state() if at_mark else None
            error = training.error()
            if course.step == steps or course.loss.has_run_away(course.step, float(error.detach())):
                training.turn_back(float(error.detach()), listen)
                continue
            if state is not None:
                note(course.step, course.loss.average)
                training.mark(state)
                if pace.keeps():
                    training.keep()
                marked = course.step
            training.step(error)
            if (speed := pace.tells(training.batch, at_once=course.step == steps)) is not None:
                listen(Stepped(stage.name, task.first, task.last, course.step, steps, course.loss.average, speed))
    training.course.settle(training.moving)
    if stage.batchnorm == "recalibrate":
        passes = max(1, min(len(training.material.answers.views) // training.batch, _RECALIBRATING))
        recalibrate(training.moving, passes, training.show)
    return training.course.loss.average


class _Pace:
    """When a state is kept and when an event is told: by the clock, on which no number of the result depends."""

    def __init__(self) -> None:
        self.kept = self.marked = self.told = time.monotonic()
        self.seen = 0

    def keeps(self) -> bool:
        """At a mark: whether the next one would come too late."""
        now = time.monotonic()
        due = now - self.kept + (now - self.marked) > _KEEP_EVERY
        self.kept, self.marked = now if due else self.kept, now
        return due

    def tells(self, images: int, *, at_once: bool) -> float | None:
        """So many more images have been seen: the images a second, if it is time to tell."""
        now = time.monotonic()
        self.seen += images
        if now - self.told <= _TELL_EVERY and not at_once:
            return None
        speed = self.seen / max(now - self.told, 1e-9)
        self.told, self.seen = now, 0
        return speed
