"""The whole method on one page: first weights, views, the stages, the merge, the check."""

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from itertools import groupby
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from graftcli.errors import PairError
from graftcli.events import (
    Event,
    Listener,
    MergeChecked,
    RateChosen,
    SyntheticImages,
    TaskFinished,
    TaskStarted,
    TeacherPass,
    Warned,
)
from graftcli.graft.backend.memory_format import lay_out
from graftcli.graft.backend.precision import Precision
from graftcli.graft.data.synthetic import Synthesis
from graftcli.graft.data.teacher_cache import Place, TeacherCache, choose_places, size_of
from graftcli.graft.data.view_counts import augment_of, chunk_of, divide, looks, synthetic
from graftcli.graft.data.views import Views, plain
from graftcli.graft.initialize.frozen_blocks import copy_blocks, frozen_blocks
from graftcli.graft.initialize.inherit import inherit
from graftcli.graft.initialize.start import start
from graftcli.graft.layerwise.layer_pairs import check_made
from graftcli.graft.layerwise.stage import fit_layers, length
from graftcli.graft.settings import EngineSettings
from graftcli.graft.surgery import merge as merging
from graftcli.graft.surgery.seams import Seam, graft, seams
from graftcli.graft.training.judge import Judge, Score, Verdict, Watch, judged, marks_of, setback, verdict_of, views_of
from graftcli.graft.training.loop import run_loop
from graftcli.graft.training.rate_trial import best_factor
from graftcli.graft.training.state import copied
from graftcli.graft.training.task_cost import looks_worth
from graftcli.graft.training.tasks import Pieces, Task, joined, moving_modules, pieces, tasks, wanted
from graftcli.graft.training.trainer import BlockTrainer, TaskStore, TrainContext
from graftcli.images import Images, Preprocess
from graftcli.models.cuts.plan import Plan
from graftcli.models.derivation import is_derived, kept_of
from graftcli.recipe import Recipe, check_units
from graftcli.recipe.values import Augment, Crop
from graftcli.store.cache_files import Cache

_START_IMAGES = 64  # on which channels are chosen and adapters are solved before anything is trained
_START_VIEWS, _START_PIXELS = 256, 64 * 224 * 224  # from which layers are solved
_LOOKS_HELD_OUT = 8  # views of each held-out image


class RunStore(Protocol):
    """What the engine asks of the run's folder."""

    @property
    def cache(self) -> Cache: ...

    def unit(self, name: str) -> "StoredTask": ...
    def metric(self, record: dict[str, Any]) -> None: ...


class StoredTask(TaskStore, Protocol):
    @property
    def finished(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None: ...
    def finish(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Outcome:
    merged: merging.Merged
    likeness: Score | None  # to the teacher, on views of held-out images
    held_out: int
    errors: tuple[float, float]  # of the merge, in float64 and float32
    verdicts: Mapping[str, Verdict]  # by task


def run(
    plan: Plan,
    images: Images,
    preprocess: Preprocess,
    recipe: Recipe,
    settings: EngineSettings,
    store: RunStore,
    listen: Listener,
    held_out: Images | None = None,
) -> Outcome:
    """Train the student, or the chosen blocks of it, and merge. The teacher is the same before and after."""
    blocks = len(plan.blocks)
    chosen = settings.blocks or tuple(range(1, blocks + 1))
    check_units(recipe, blocks)
    check_made(recipe, plan.student.network)
    before = weights_digest(plan.teacher.network.module)
    train, held = divide(images, held_out, settings.seed)
    inherits = recipe.init in ("inherit", "least-squares")
    if inherits and not is_derived(plan.student.network):  # which has inherited, and more exactly
        inherit(plan.teacher, plan.student, plain(train[:_START_IMAGES], preprocess))
    frozen = frozen_blocks(recipe, plan)
    copy_blocks(plan, frozen)
    work = _Work(
        plan, seams(plan, recipe.adapters.where), train, held, preprocess, recipe, settings, store, listen, frozen
    )
    for _, of_stage in groupby(work.every, key=lambda task: task.stage.name):
        work.do_stage(list(of_stage))
    likeness = work.judge.measured(chosen, len(work.judge.teacher_cache.views)) if len(held) else None
    merged = (
        merging.merge(plan, work.seams) if len(chosen) == blocks else merging.merge_hybrid(plan, work.seams, chosen)
    )
    errors = merging.check(merged, graft(plan, work.seams, chosen), plain(train[:16], preprocess))
    listen(MergeChecked(*errors))
    if weights_digest(plan.teacher.network.module) != before:
        raise PairError("the teacher's weights changed during the run.", "Nothing was written. Please report this.")
    return Outcome(merged, likeness, len(held), errors, work.verdicts)


def weights_digest(module: nn.Module) -> str:
    """One hash of all parameters and buffers."""
    found = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


@dataclass(frozen=True)
class _Trained:
    """How the training of a task ended."""

    loss: float
    steps: int
    factor: float = 1.0  # of its rate
    stopped: int | None = None  # the step at which it was ended early


class _Work:
    """The networks in pieces, the views, and what the teacher said of them: everything that tasks share."""

    def __init__(
        self,
        plan: Plan,
        between: list[Seam],
        train: Tensor,
        held: Tensor,
        preprocess: Preprocess,
        recipe: Recipe,
        settings: EngineSettings,
        store: RunStore,
        listen: Listener,
        frozen: tuple[int, ...],
    ) -> None:
        self.plan, self.seams, self.recipe, self.settings = plan, between, recipe, settings
        self.store, self.listen, self.train, self.preprocess = store, listen, train, preprocess
        self.pieces: Pieces = pieces(plan, between)
        for piece in (*self.pieces.teacher, *self.pieces.student):
            piece.to(settings.precision.device)
        looked_at = plain(train[:_START_IMAGES], preprocess).to(settings.precision.device)
        lay_out(self.pieces, looked_at[:2])
        chosen = settings.blocks or range(1, self.pieces.blocks + 1)
        start(recipe, plan, between, self.pieces, chosen, looked_at, self._first_views, settings.seed, listen, frozen)
        # every task, also those that an earlier session finished: what is fixed in a run is made of all of them
        self.every = tasks(recipe, self.pieces.blocks, chosen, frozen)
        self.todo = list(self.every)
        self.kept = {one.layer: one for one in kept_of(plan.student.network)}
        self.looks = looks(recipe, self.every, len(train))
        self.teacher_cache: dict[Augment, TeacherCache] = {}
        self.is_held_out = len(held) > 0
        views = self._judging(held)
        scores = self.pieces.blocks + 1
        exact = Precision(settings.precision.device)  # by what is measured on, runs of any precision are compared
        teacher_cache = self._answers("held-out", views, {scores}, settings.rooms(views.remembered), exact)
        teacher_cache.look({scores}, lambda *_: None)
        self.judge = Judge(self.pieces, teacher_cache)
        self.verdicts: dict[str, Verdict] = {}

    def _judging(self, held: Tensor) -> Views:
        """Views that nothing is trained on: of held-out images, else unseen ones of the training images."""
        seed, room = self.settings.seed + 1, self.settings.drawn
        light = Augment(crop=Crop(), flip=True)
        if len(held):
            return Views(held, self.preprocess, light, _LOOKS_HELD_OUT, seed, room=room)
        shown = self.recipe.views.augment
        return Views(
            self.train, self.preprocess, light if shown == Augment() else shown, _LOOKS_HELD_OUT, seed, room=room
        )

    def _first_views(self) -> Tensor:
        """Views from which layers are solved: of large images fewer, for all of them are held at once."""
        count = max(1, min(_START_VIEWS, _START_PIXELS // math.prod(self.preprocess.size)))
        each, seed = -(-count // len(self.train)), self.settings.seed + 3
        views = Views(self.train, self.preprocess, self.recipe.views.augment, each, seed)
        return views.normalised(torch.arange(min(count, len(views)))).to(self.settings.precision.device)

    def do_stage(self, of_stage: Sequence[Task]) -> None:
        """Train the tasks of one stage; blocks that are trained apart are judged once more, joined."""
        joint = joined(of_stage)
        if joint is None:
            for task in of_stage:
                self.do(task)
            return
        moving = self._moving(joint)
        start, measure = copied(moving.state_dict()), self._measure(joint, sum(map(self._work, of_stage)))
        before = None if self.store.unit(joint.name).finished else measure()
        for task in of_stage:
            self.do(task)
        if before is None:
            self._take_over(joint, moving)
        else:
            facts = {"step": sum(map(self._length, of_stage)), "loss": None, "lr_factor": 1.0, "stopped": None}
            verdict = self._judged(joint, moving, start, Watch(before, (), measure), facts)
            changed = moving.state_dict() if verdict.is_setback else {}
            self.store.unit(joint.name).finish(changed, {"verdict": asdict(verdict)})

    def do(self, task: Task) -> None:
        """Train one task, or take its weights from the run's folder where it is finished."""
        unit, moving = self.store.unit(task.name), self._moving(task)
        if unit.finished is not None:
            self._take_over(task, moving)
            self.todo.remove(task)
            return
        began, watch, weights = time.monotonic(), self._watch(task), copied(moving.state_dict())
        teacher_cache = self._looked(task)
        ended = self._trained(task, unit, moving, self._material(teacher_cache), watch)
        facts = {"loss": ended.loss, "lr_factor": ended.factor, "stopped": ended.stopped}
        verdict = self._judged(task, moving, weights, watch, {"step": ended.steps, **facts})
        agreement = verdict.kept.agreement if self.is_held_out else None
        known = {**facts, "agreement": agreement, "steps": ended.steps}
        unit.finish(moving.state_dict(), {**known, "verdict": asdict(verdict)})
        took = time.monotonic() - began
        self.listen(TaskFinished(task.stage.name, task.first, task.last, ended.steps, ended.loss, agreement, took))
        self.todo.remove(task)
        teacher_cache.forget(self._wanted(self._alike(task, self.todo)))

    def _moving(self, task: Task) -> nn.ModuleList:
        return nn.ModuleList(moving_modules(task, self.pieces))

    def _take_over(self, task: Task, moving: nn.Module) -> None:
        """Load the weights and the verdict of what is finished; joined blocks have their own unless set back."""
        ready = self.store.unit(task.name).finished
        assert ready is not None
        if ready[0]:
            moving.load_state_dict(ready[0])
        if "verdict" in ready[1]:
            self.verdicts[task.name] = verdict_of(ready[1]["verdict"])

    def _judged(
        self, task: Task, moving: nn.Module, start: dict[str, Tensor], watch: Watch, facts: dict[str, Any]
    ) -> Verdict:
        """Keep what made nothing worse, say so where something did, and record the scores beside the facts."""
        verdict = judged(moving, start, watch.before, watch.measure, facts["stopped"])
        self.verdicts[task.name] = verdict
        if verdict.is_setback:
            on = "held-out images" if self.is_held_out else "unseen views of the training images"
            self.listen(Warned(setback(task, verdict, on, facts["lr_factor"])))
        agreement = verdict.kept.agreement if self.is_held_out else None
        scores = {"before": watch.before.agreement, "after": verdict.after.agreement, "kl": verdict.kept.kl}
        self.store.metric({"unit": task.name, **facts, "agreement": agreement, **scores, "fraction": verdict.fraction})
        return verdict

    def _trained(
        self, task: Task, unit: "StoredTask", moving: nn.Module, context: TrainContext, watch: Watch
    ) -> "_Trained":
        tell, note = self._tell(task), self._note(task)
        if task.stage.train == "layers":
            return _Trained(fit_layers(task, context, unit, tell, note), self._length(task))
        factor = best_factor(task, context, moving, watch.measure) if unit.state is None else None
        if factor is not None and len(task.stage.lr_factors or ()) > 1:
            self.listen(RateChosen(task.stage.name, task.first, task.last, factor))
        training = BlockTrainer(task, context, unit, factor, watch)
        loss = run_loop(training, tell, note)
        return _Trained(loss, training.train_state.step, training.train_state.factor, training.stopped)

    def _watch(self, task: Task) -> Watch:
        """The score that a task begins with, and the steps at which it is scored again."""
        work, measure = self._work(task), self._measure(task, self._work(task))
        is_recalibrated = task.stage.batchnorm == "recalibrate"  # at the end alone: marks would see other statistics
        look = views_of(work, self._look) * self._look
        return Watch(measure(), () if is_recalibrated else marks_of(self._length(task), work, look), measure)

    def _measure(self, task: Task, work: float) -> Callable[[], Score]:
        return partial(self.judge.measured, (*task.before, *task.blocks), views_of(work, self._look))

    def _work(self, task: Task) -> float:
        """What a task costs, in looks of the teacher at one view."""
        return self._length(task) * task.batch(len(self.train)) * looks_worth(task, self.plan)

    @property
    def _look(self) -> float:
        """What scoring one view costs, in the same unit."""
        return 1 + self.plan.student.macs / max(1, self.plan.teacher.macs)

    def _tell(self, task: Task) -> Listener:
        """A listener that knows how far the whole run has come."""
        lengths = [self._length(t) for t in self.every]
        done = sum(lengths[: self.every.index(task)])

        def tell(event: Event) -> None:
            self.listen(replace(event, done=done, total=sum(lengths)) if isinstance(event, TaskStarted) else event)

        return tell

    def _length(self, task: Task) -> int:
        images = len(self.train)
        return length(task, images, self.pieces, self.kept) if task.stage.train == "layers" else task.steps(images)

    def _material(self, teacher_cache: TeacherCache) -> TrainContext:
        settings = self.settings
        return TrainContext(
            self.pieces,
            teacher_cache,
            len(self.train),
            settings.seed,
            settings.precision,
            settings.layer_views,
            self.kept,
        )

    def _note(self, task: Task) -> Callable[[int, float], None]:
        return lambda step, loss: self.store.metric({"unit": task.name, "step": step, "loss": loss, "agreement": None})

    def _augment(self, task: Task) -> Augment:
        return augment_of(self.recipe, task)

    def _alike(self, task: Task, among: Sequence[Task]) -> list[Task]:
        """Those that see the same views."""
        return [other for other in among if self._augment(other) == self._augment(task)]

    def _wanted(self, of: Sequence[Task]) -> set[int]:
        return {value for task in of for value in wanted(task, self.pieces)}

    def _looked(self, task: Task) -> TeacherCache:
        """The teacher's answers to the task's views, made at the first task with them that is not finished."""
        augment = self._augment(task)
        for done in [other for other in self.teacher_cache if other not in map(self._augment, self.todo)]:
            del self.teacher_cache[done]
        if augment not in self.teacher_cache:
            alike, number = self._alike(task, self.every), list(self.looks).index(augment)
            seed, room = self.settings.seed, self.settings.drawn // len(self.looks)
            views = Views(self.train, self.preprocess, augment, self.looks[augment], seed, self.synthetic, room)
            rooms = self.settings.rooms(self._taken() + views.remembered, len(self.looks))
            teacher_cache = self._answers(
                f"value{number or ''}", views, self._wanted(alike), rooms, self.settings.precision
            )
            looked = self._wanted(self._alike(task, self.todo))
            teacher_cache.look(looked, lambda done, total: self.listen(TeacherPass(done, total)))
            self.teacher_cache[augment] = teacher_cache
        return self.teacher_cache[augment]

    def _taken(self) -> int:
        """Bytes of memory that the judge's views and the teacher's scores of them have."""
        judging = self.judge.teacher_cache
        size = size_of(self.pieces.blocks + 1, self.pieces.shapes, len(judging.views), judging.precision.dtype)
        return size + judging.views.remembered

    @cached_property
    def synthetic(self) -> Tensor | None:
        """Images beside those that there are, where the recipe asks for them and the teacher can make them."""
        asked, count = self.recipe.views.synthetic, synthetic(self.recipe, self.every, len(self.train))
        if not asked or not count:
            return None
        synthesis = Synthesis(self.plan.teacher, self.preprocess, self.settings.precision, asked.steps)
        if not synthesis.is_possible:
            return None
        return synthesis.of(
            self.train,
            self.recipe.views.augment,
            count,
            self.settings.seed + 2,
            self.store.cache,
            lambda done, total: self.listen(SyntheticImages(done, total)),
        )

    def _answers(
        self, name: str, views: Views, values: set[int], rooms: Sequence[tuple[Place, int]], precision: Precision
    ) -> TeacherCache:
        shapes = self.pieces.shapes
        places = choose_places(values, shapes, len(views), precision.dtype, rooms)
        return TeacherCache(
            views,
            self.pieces.teacher,
            shapes,
            places,
            cache=self.store.cache,
            name=name,
            chunk=chunk_of(shapes, self.settings.precision.device),
            precision=precision,
        )
