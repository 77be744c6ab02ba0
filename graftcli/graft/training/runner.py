"""Runs a task: trains it, scores it, and keeps the change if the score is no worse. `stages.py` calls it."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TypedDict

from torch import Tensor, nn

from graftcli.events import Event, Listener, RateChosen, TaskFinished, TaskStarted, Warned
from graftcli.graft.data.caches import TeacherCaches
from graftcli.graft.data.teacher_cache import TeacherCache
from graftcli.graft.layerwise.stage import fit_layers
from graftcli.graft.schedule import Schedule
from graftcli.graft.settings import EngineSettings
from graftcli.graft.training.judge import (
    Judge,
    Score,
    Verdict,
    Watch,
    keep_best,
    setback,
    verdict_from_facts,
)
from graftcli.graft.training.loop import run_loop
from graftcli.graft.training.pieces import Pieces
from graftcli.graft.training.rate_trial import best_factor
from graftcli.graft.training.run_store import RunStore, SharedTask, StoredTask
from graftcli.graft.training.state import clone_tensors
from graftcli.graft.training.task_scoring import TaskScoring
from graftcli.graft.training.tasks import Task, trained_modules
from graftcli.graft.training.trainer import BlockTrainer, TrainContext
from graftcli.models.cuts.plan import Plan
from graftcli.models.derivation import selections_of


class TrainFacts(TypedDict):
    """How training ended, as the metrics record it."""

    loss: float | None
    lr_factor: float
    stopped: int | None


@dataclass(frozen=True)
class _TrainResult:
    """The end of the training of a task."""

    loss: float
    steps: int
    factor: float = 1.0  # of the learning rate
    stopped: int | None = None  # step of early stopping


class TaskRunner:
    """Trains the tasks of a schedule one by one, and restores finished tasks from the store."""

    def __init__(
        self,
        plan: Plan,
        pieces: Pieces,
        schedule: Schedule,
        caches: TeacherCaches,
        settings: EngineSettings,
        store: RunStore,
        listen: Listener,
        random: Collection[int] = (),
    ) -> None:
        """`random` are the blocks that start from random weights."""
        self.plan, self.pieces, self.schedule, self.caches = plan, pieces, schedule, caches
        self.settings, self.store, self.listen = settings, store, listen
        self.unfinished = list(schedule.tasks)
        self.kept = {selection.layer: selection for selection in selections_of(plan.student.network)}
        self.judge = Judge(pieces, caches.judging)
        self.scoring = TaskScoring(plan, pieces, schedule, self.kept, self.judge)
        self.held_out = Judge(pieces, caches.held_out) if caches.held_out is not None else None
        self.verdicts: dict[str, Verdict] = {}
        self.random = set(random)  # blocks that no task has trained yet
        self.world = settings.world  # the processes that share the current task

    def unit(self, task: Task) -> StoredTask:
        """Return the stored state of a task; with other processes, the one that the first process reads and writes."""
        unit = self.store.unit(task.name)
        return unit if self.world.size == 1 else SharedTask(unit, self.world)

    def run(self, task: Task) -> None:
        """Train one task, or restore it if it is finished."""
        unit, modules = self.unit(task), self.modules(task)
        if unit.finished is not None:
            self.restore(task, modules)
            self.set_trained(task)
            return
        began, weights = time.monotonic(), clone_tensors(modules.state_dict())
        watch = self.scoring.watch(task, self.world, is_random=self.is_random(task))
        result = self._train(task, unit, modules, self._context(self.caches.cache_for(task, self.unfinished)), watch)
        facts: TrainFacts = {"loss": result.loss, "lr_factor": result.factor, "stopped": result.stopped}
        verdict = self.keep_best(task, modules, weights, watch, result.steps, facts)
        agreement = self._agreement(task, verdict)
        scores = {"agreement": agreement, "steps": result.steps, "verdict": asdict(verdict)}
        unit.finish(modules.state_dict(), {**facts, **scores})
        seconds = time.monotonic() - began
        finished = (task.stage.name, task.first, task.last, result.steps, result.loss, agreement, seconds)
        self.listen(TaskFinished(*finished))
        self.set_trained(task)
        self.caches.release(task, self.unfinished)

    def set_trained(self, task: Task) -> None:
        """Note that a task is finished: its blocks no longer have random weights."""
        self.unfinished.remove(task)
        self.random -= set(task.trained)

    def is_random(self, task: Task) -> bool:
        """Whether a block that the task trains still has random weights, so that its changes are always kept."""
        return not self.random.isdisjoint(task.trained)

    def agreement(self, blocks: Sequence[int]) -> Score | None:
        """Score the network with these blocks replaced on all held-out views; None without held-out images."""
        return self.held_out.measured(blocks, len(self.held_out.teacher_cache.views)) if self.held_out else None

    @property
    def _is_judged_on_held_out(self) -> bool:
        return self.caches.judging is self.caches.held_out

    def _agreement(self, task: Task, verdict: Verdict) -> float | None:
        """Return the agreement on held-out images after a task; None without held-out images."""
        if self._is_judged_on_held_out:
            return verdict.kept.agreement
        score = self.agreement((*task.before, *task.blocks))
        return score.agreement if score is not None else None

    def modules(self, task: Task) -> nn.ModuleList:
        """Return the modules that a task trains."""
        return nn.ModuleList(trained_modules(task, self.pieces))

    def restore(self, task: Task, modules: nn.Module) -> None:
        """Load the weights and verdict of a finished task; joined blocks have stored weights only after a setback."""
        finished = self.unit(task).finished
        assert finished is not None
        tensors, facts = finished
        if tensors:
            modules.load_state_dict(tensors)
        if "verdict" in facts:
            self.verdicts[task.name] = verdict_from_facts(facts["verdict"])

    def keep_best(
        self,
        task: Task,
        modules: nn.Module,
        start: dict[str, Tensor],
        watch: Watch,
        steps: int,
        facts: TrainFacts,
    ) -> Verdict:
        """Keep the weight change if the score is no worse, warn of a setback, and record the scores."""
        if self.is_random(task):
            after = watch.measure()
            verdict = Verdict(watch.before, after, after, 1.0)
        else:
            verdict = keep_best(modules, start, watch.before, watch.measure, self.judge.margin, facts["stopped"])
        self.verdicts[task.name] = verdict
        if verdict.is_setback:
            views = "held-out images" if self._is_judged_on_held_out else "unseen views of the images"
            self.listen(Warned(setback(task, verdict, views, facts["lr_factor"])))
        agreement = self._agreement(task, verdict)
        scores = {"before": watch.before.agreement, "after": verdict.after.agreement, "kl": verdict.kept.kl}
        record = {"unit": task.name, "step": steps, **facts, "agreement": agreement, **scores}
        self._record({**record, "fraction": verdict.fraction})
        return verdict

    def _record(self, record: Mapping[str, object]) -> None:
        """Append a record to the metrics of the run: once, if several processes share the task."""
        if self.world.is_first:
            self.store.metric(record)

    def _train(
        self, task: Task, unit: StoredTask, modules: nn.Module, context: TrainContext, watch: Watch
    ) -> _TrainResult:
        listen, log_loss = self._with_run_progress(task), self._log_loss(task)
        if task.stage.train == "layers":
            return _TrainResult(fit_layers(task, context, unit, listen, log_loss), self.scoring.length(task))
        factor = best_factor(task, context, modules, watch) if unit.state is None else None
        if factor is not None and len(task.stage.lr_factors or ()) > 1:
            self.listen(RateChosen(task.stage.name, task.first, task.last, factor))
        trainer = BlockTrainer(task, context, unit, factor, watch)
        loss = run_loop(trainer, listen, log_loss)
        return _TrainResult(loss, trainer.train_state.step, trainer.train_state.factor, trainer.stopped)

    def _with_run_progress(self, task: Task) -> Listener:
        """Return a listener that adds the progress of the whole run to `TaskStarted`."""
        lengths = [self.scoring.length(t) for t in self.schedule.tasks]
        done = sum(lengths[: self.schedule.tasks.index(task)])

        def listen(event: Event) -> None:
            if isinstance(event, TaskStarted):
                event = replace(event, done=done, total=sum(lengths))
            self.listen(event)

        return listen

    def _log_loss(self, task: Task) -> Callable[[int, float], None]:
        return lambda step, loss: self._record({"unit": task.name, "step": step, "loss": loss, "agreement": None})

    def _context(self, cache: TeacherCache) -> TrainContext:
        settings, images = self.settings, self.schedule.images
        return TrainContext(
            self.pieces,
            cache,
            images,
            settings.seed,
            settings.precision,
            settings.layer_view_bytes,
            self.kept,
            self.world,
        )
