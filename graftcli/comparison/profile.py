"""A run's first steps, timed: what a step of each unit takes, a look at a view, and all the rest."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from torch import Tensor

from graftcli.events import Event, TeacherPass
from graftcli.graft.data.synthetic import Synthesis
from graftcli.graft.data.view_counts import looks
from graftcli.graft.engine import run
from graftcli.graft.layerwise.stage import length
from graftcli.graft.settings import EngineSettings
from graftcli.graft.surgery.seams import seams
from graftcli.graft.training.tasks import Task, pieces, tasks
from graftcli.models.derivation import kept_of
from graftcli.recipe.stage import Stage
from graftcli.runs.image_check import checked
from graftcli.runs.prepare import PreparedRun, trained_on
from graftcli.runs.running import fixed_now, settings_of
from graftcli.store.cache_files import Cache

_STEPS = 8  # of each unit that are timed

SCRATCH = ".rehearsal-"  # how the name of a folder begins in which a rehearsal runs


@dataclass(frozen=True)
class StepTimes:
    """In seconds."""

    step: Mapping[str, float]  # of each unit that is trained in steps
    view: float  # the teacher's look at one
    image: float  # a synthetic one
    rest: float


def times_of(start: PreparedRun, every: Sequence[Task]) -> dict[str, int]:
    """How often each task's steps are taken: once, or for each of its layers."""
    found = dict.fromkeys((task.name for task in every), 1)
    layered = [task for task in every if task.stage.train == "layers"]
    if layered:
        parts = pieces(start.plan, seams(start.plan, start.recipe.adapters.where))
        kept = {one.layer: one for one in kept_of(start.plan.student.network)}
        images = trained_on(start)
        found |= {task.name: length(lasting(task, 1, images), images, parts, kept) for task in layered}
    return found


def lasting(task: Task, steps: int, images: int) -> Task:
    """The task with so many steps."""
    return replace(task, stage=_in_steps(task.stage, (steps,) * (task.unit + 1), images))


def _in_steps(stage: Stage, steps: tuple[int, ...], images: int) -> Stage:
    """The stage with its length in steps; its batch, on which its rate may hang, is what it is with epochs."""
    batch = Task("", stage, 0, (1,)).batch(images)
    return stage.model_copy(update={"steps": steps, "epochs": None, "batch": batch})


def rehearse(start: PreparedRun, folder: Path) -> StepTimes:
    """A few steps of each unit, with as large a share of what the teacher says in memory as the run will have."""
    recipe, images, blocks = start.recipe, trained_on(start), len(start.plan.blocks)
    short = recipe.model_copy(
        update={
            "stages": tuple(
                stage if stage.optimizer == "least-squares" else _in_steps(stage, (_STEPS,), images)
                for stage in recipe.stages
            )
        }
    )
    whole, few = (tasks(one, blocks, start.blocks, start.frozen) for one in (recipe, short))
    times = times_of(start, few)
    share = min(1.0, sum(looks(short, few, images).values()) / sum(looks(recipe, whole, images).values()))
    fixed = fixed_now(start, folder)
    rooms = {name: fixed[name] and int(share * fixed[name]) for name in ("memory", "disk", "at_once")}
    settings = settings_of(start, {**fixed, **rooms})
    settings = replace(settings, most_drawn=int(share * settings.most_drawn))
    torch.set_num_threads(fixed["threads"])
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=folder, prefix=SCRATCH) as scratch:
        watch = _Watch(Cache(Path(scratch)))
        checked(start.plan.teacher.network, start.train, start.preprocess, settings.precision.device)
        run(start.plan, start.train, start.preprocess, short, settings, watch, watch.hear, start.held)
    took = time.monotonic() - began
    open_ = [task for task in few if task.stage.optimizer != "least-squares"]
    step = {task.name: watch.step(task.name, layered=task.stage.train == "layers") for task in open_}
    trained = sum(_STEPS * times[name] * seconds for name, seconds in step.items())
    looking, views = watch.looked_at()
    image = _synthesising(start, settings, folder)
    return StepTimes(step, looking / max(1, views), image, max(0.0, took - looking - trained))


def _synthesising(start: PreparedRun, settings: EngineSettings, folder: Path) -> float:
    """Seconds a synthetic image: a rehearsal is too short to have any."""
    asked, steps, some = start.recipe.views.synthetic, 2, 32
    if asked is None or not asked.lacking(trained_on(start)):
        return 0.0
    synthesis = Synthesis(start.plan.teacher, start.preprocess, settings.precision, steps)
    if not synthesis.is_possible:
        return 0.0
    pixels, augment = start.train.pixels, start.recipe.views.augment
    with tempfile.TemporaryDirectory(dir=folder, prefix=SCRATCH) as scratch:
        began = time.monotonic()
        synthesis.of(pixels, augment, some, settings.seed, Cache(Path(scratch)), lambda *_: None)
        return (time.monotonic() - began) / some / steps * asked.steps


@dataclass
class _Watch:
    """A keeper that keeps nothing but the times at which the engine came by."""

    cache: Cache
    marks: dict[str, list[float]] = field(default_factory=dict)
    looked: list[tuple[float, int]] = field(default_factory=list)

    def unit(self, name: str) -> "_Forgetful":
        return _Forgetful()

    def metric(self, record: Mapping[str, Any]) -> None:
        self.marks.setdefault(record["unit"], []).append(time.monotonic())

    def hear(self, event: Event) -> None:
        if isinstance(event, TeacherPass):
            self.looked.append((time.monotonic(), event.done))

    def step(self, unit: str, *, layered: bool) -> float:
        """A step's time; the first one, which finds nothing ready, and the unit's end are none. Layers differ: of
        theirs it is the mean, what lies between them included."""
        times = [later - earlier for earlier, later in pairwise(self.marks.get(unit, [])[:-1])]
        return (mean if layered else median)(times) if times else 0.0

    def looked_at(self) -> tuple[float, int]:
        """How long the teacher looked, and at how many views."""
        spans = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(self.looked) if b[1] > a[1]]
        return sum(seconds for seconds, _ in spans), sum(views for _, views in spans)


class _Forgetful:
    """A unit that always starts anew."""

    state: dict[str, Any] | None = None
    finished: tuple[dict[str, Tensor], dict[str, Any]] | None = None

    def keep(self, step: int, state: dict[str, Any]) -> None: ...
    def finish(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None: ...
