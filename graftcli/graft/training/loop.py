"""The only training loop."""

import time
from collections.abc import Callable

from graftcli.events import Listener, TaskStarted, TaskStep, Warned
from graftcli.graft.backend.batchnorm import recalibrate, trained_as
from graftcli.graft.training.trainer import Trainer

_KEEP_EVERY = 8.0  # seconds between two states that a resumed run goes on from
_TELL_EVERY = 0.2  # seconds between two events
_MARKS = 50  # in each task: steps at which its state is copied and its loss is noted
_RECALIBRATING = 16  # batches on which BatchNorm statistics are measured anew


Note = Callable[[int, float], None]


def run_loop(training: Trainer, listen: Listener, note: Note = lambda *_: None) -> float:
    """Train what is to be trained; it ends with the last or the averaged weights. Returns the loss's last average.

    `note` is told the loss at the same steps whenever the run is broken off; `listen` at moments that please the eye.
    """
    pace, task = _Pace(), training.task
    stage, steps = task.stage, training.steps
    marked = training.train_state.step
    listen(TaskStarted(stage.name, task.first, task.last, marked, steps, 0, 0))
    with trained_as(stage, training.moving):
        while training.train_state.step < steps or not training.is_finite():
            train_state = training.train_state
            training.score()
            if training.only_falls:
                listen(
                    Warned(f"{training.name} lost agreement at each mark: ended at step {train_state.step} of {steps}")
                )
                break
            # at a mark and nowhere else: where a diverging run turns back to must not depend on the clock
            at_mark = train_state.step % max(1, steps // _MARKS) == 0 and train_state.step != marked
            # before the loss, whose forward pass moves the statistics of a BatchNorm that is trained
            state = training.state() if at_mark else None
            error = training.error()
            if train_state.step == steps or train_state.loss.has_run_away(train_state.step, float(error.detach())):
                training.turn_back(float(error.detach()), listen)
                continue
            if state is not None:
                note(train_state.step, train_state.loss.average)
                training.mark(state)
                if pace.keeps():
                    training.keep()
                marked = train_state.step
            training.step(error)
            if (speed := pace.tells(training.batch, at_once=train_state.step == steps)) is not None:
                listen(
                    TaskStep(
                        stage.name, task.first, task.last, train_state.step, steps, train_state.loss.average, speed
                    )
                )
    training.train_state.settle(training.moving)
    if stage.batchnorm == "recalibrate":
        passes = max(1, min(len(training.context.teacher_cache.views) // training.batch, _RECALIBRATING))
        recalibrate(training.moving, passes, training.show)
    return training.train_state.loss.average


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
