"""The training loop of every task."""

import math
import time
from collections.abc import Callable

from graftcli.events import Listener, TaskStarted, TaskStep, Warned
from graftcli.graft.backend.batchnorm import recalibrate, training_mode
from graftcli.graft.training.trainer import Trainer
from graftcli.store import intervals

_LOG_POINTS = 50  # per task, at most: steps at which the loss is read and logged, and the state is copied
_RECALIBRATION_BATCHES = 16


LossLog = Callable[[int, float], None]


def run_loop(trainer: Trainer, listen: Listener, log_loss: LossLog = lambda *_: None) -> float:
    """Train a task; it ends with the last or the averaged weights. Returns the running average of the loss.

    The loss is read at the first step and at up to fifty log points, because each reading waits for the device.
    `log_loss` is called at the same steps whether or not the run is interrupted; `listen` at most every 0.2 s.
    """
    pace, task = _Pace(), trainer.task
    stage, steps = task.stage, trainer.steps
    last_log_point, average = trainer.train_state.step, math.nan
    listen(TaskStarted(stage.name, task.first, task.last, last_log_point, steps, 0, 0))
    world = trainer.context.world
    with training_mode(stage, trainer.trainable, world):
        while trainer.train_state.step < steps or trainer.has_failed():
            train_state = trainer.train_state
            trainer.score()
            if trainer.is_falling:
                text = f"{trainer.name} lost agreement at every score: training ended at step {train_state.step}"
                listen(Warned(f"{text} of {steps}"))
                break
            # determined by steps, not time, because a diverged task rolls back to the state of a log point
            is_log_point = train_state.step % max(1, steps // _LOG_POINTS) == 0 and train_state.step != last_log_point
            # before the forward pass, which updates the statistics of BatchNorms in train mode
            state = trainer.state() if is_log_point else None
            loss = trainer.compute_loss()
            if state is not None or train_state.step == steps or math.isnan(average):
                value = trainer.read(loss)
                if train_state.step == steps or train_state.loss.has_diverged(train_state.step, value):
                    trainer.roll_back(value, listen)
                    average = math.nan
                    continue
                average = value if train_state.loss.running is None else train_state.loss.average
            if state is not None:
                log_loss(train_state.step, average)
                trainer.accept(state, average)
                if pace.is_save_due():
                    trainer.keep()
                last_log_point = train_state.step
            trainer.step(loss)
            if (speed := pace.speed(trainer.batch, at_once=train_state.step == steps)) is not None:
                average = train_state.loss.average if train_state.step == steps else average
                listen(TaskStep(stage.name, task.first, task.last, train_state.step, steps, average, speed))
    trainer.train_state.use_average(trainer.trainable)
    if stage.batchnorm == "recalibrate":
        batches = max(1, min(len(trainer.context.teacher_cache.views) // trainer.batch, _RECALIBRATION_BATCHES))
        recalibrate(trainer.trainable, batches, trainer.forward, world)
    return trainer.train_state.loss.average


class _Pace:
    """Decides by the clock when to save a state and when to send an event; no result depends on it."""

    def __init__(self) -> None:
        self.saved = self.checkpoint = self.sent = time.monotonic()
        self.images = 0

    def is_save_due(self) -> bool:
        """At a checkpoint: whether waiting for the next one would exceed the interval."""
        now = time.monotonic()
        due = now - self.saved + (now - self.checkpoint) > intervals.SAVE_SECONDS
        self.saved, self.checkpoint = now if due else self.saved, now
        return due

    def speed(self, images: int, *, at_once: bool) -> float | None:
        """Count the images of a step; return images/s if an event is due."""
        now = time.monotonic()
        self.images += images
        if now - self.sent <= intervals.REPORT_SECONDS and not at_once:
            return None
        speed = self.images / max(now - self.sent, 1e-9)
        self.sent, self.images = now, 0
        return speed
