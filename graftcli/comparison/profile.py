"""Time the parts of a run: a training step of each task, the teacher pass per view, and everything else."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

from torch import Tensor

from graftcli.distributed.world import SINGLE, World
from graftcli.environment.process import tensor_float32, threads
from graftcli.events import Event, TeacherPass
from graftcli.graft.data.synthetic import Synthesis
from graftcli.graft.engine import run
from graftcli.graft.layerwise.stage import layerwise_steps
from graftcli.graft.schedule import schedule_of
from graftcli.graft.settings import EngineSettings
from graftcli.graft.surgery.seams import seams
from graftcli.graft.training.pieces import pieces
from graftcli.graft.training.tasks import Task
from graftcli.models.derivation import selections_of
from graftcli.recipe.stage import Stage
from graftcli.runs.image_check import check_run_images
from graftcli.runs.machine_settings import engine_settings, fixed_settings
from graftcli.runs.prepare import PreparedRun, train_count
from graftcli.store.cache_files import Cache

_TIMED_STEPS = 8  # per task

SCRATCH_PREFIX = ".profile-"  # of the temporary folders of profiling runs


@dataclass(frozen=True)
class StepTimes:
    """Seconds of the parts of a run."""

    step: Mapping[str, float]  # per step, by task
    view: float  # teacher pass, per view
    image: float  # per synthetic image
    rest: float  # everything else


def step_repeats(prepared: PreparedRun, tasks: Sequence[Task]) -> dict[str, int]:
    """Return how often the steps of each task are repeated: once, or for each of its layers."""
    repeats = dict.fromkeys((task.name for task in tasks), 1)
    layered = [task for task in tasks if task.stage.train == "layers"]
    if layered:
        parts = pieces(prepared.plan, seams(prepared.plan, prepared.recipe.adapters.where))
        kept = {selection.layer: selection for selection in selections_of(prepared.plan.student.network)}
        images = train_count(prepared)
        for task in layered:
            repeats[task.name] = layerwise_steps(task_with_steps(task, 1, images), images, parts, kept)
    return repeats


def task_with_steps(task: Task, steps: int, images: int) -> Task:
    """Return the task with this number of steps."""
    return replace(task, stage=_in_steps(task.stage, (steps,) * (task.unit + 1), images))


def _in_steps(stage: Stage, steps: tuple[int, ...], images: int) -> Stage:
    """Return the stage with its length in steps; the batch size stays that of epochs, as the learning rate expects."""
    batch = Task("", stage, 0, (1,)).batch(images)
    return stage.model_copy(update={"steps": steps, "epochs": None, "batch": batch})


def profile_run(prepared: PreparedRun, folder: Path, world: World = SINGLE) -> StepTimes:
    """Time a few steps of each task, with the same share of cached teacher features in memory as in the run."""
    plan, recipe, images, train = prepared.plan, prepared.recipe, train_count(prepared), prepared.train
    short = recipe.model_copy(
        update={
            "stages": tuple(
                stage if stage.optimizer == "least-squares" else _in_steps(stage, (_TIMED_STEPS,), images)
                for stage in recipe.stages
            )
        }
    )
    schedule = schedule_of(short, images, len(plan.blocks), prepared.blocks, prepared.frozen)
    times = step_repeats(prepared, schedule.tasks)
    share = min(1.0, schedule.total_views / prepared.schedule.total_views)
    fixed = fixed_settings(prepared, folder, world)
    at_once = None if fixed.at_once is None else int(share * fixed.at_once)
    scaled = {"memory": int(share * fixed.memory), "disk": int(share * fixed.disk), "at_once": at_once}
    settings = engine_settings(prepared, fixed.model_copy(update=scaled))
    settings = replace(settings, max_drawn_bytes=int(share * settings.max_drawn_bytes))
    began = time.monotonic()
    device = settings.precision.device
    with (
        threads(fixed.threads),
        tensor_float32(device),
        tempfile.TemporaryDirectory(dir=folder, prefix=SCRATCH_PREFIX) as scratch,
    ):
        timings = _TimingStore(Cache(Path(scratch)))
        check_run_images(plan.teacher.network, train, prepared.preprocess, device)
        run(plan, prepared.images, prepared.preprocess, schedule, settings, timings, timings.listen)
    elapsed = time.monotonic() - began
    trained_tasks = [task for task in schedule.tasks if task.stage.optimizer != "least-squares"]
    step = {task.name: timings.step(task.name, layered=task.stage.train == "layers") for task in trained_tasks}
    trained = sum(_TIMED_STEPS * times[name] * seconds for name, seconds in step.items())
    pass_seconds, views = timings.teacher_pass_time()
    with threads(fixed.threads), tensor_float32(device):
        image = _seconds_per_synthetic(prepared, settings, folder)
    return StepTimes(step, pass_seconds / max(1, views), image, max(0.0, elapsed - pass_seconds - trained))


def _seconds_per_synthetic(prepared: PreparedRun, settings: EngineSettings, folder: Path) -> float:
    """Time a synthetic image separately: a profiling run is too short to make any."""
    options, steps, count = prepared.recipe.views.synthetic, 2, 32
    if options is None or not options.count_for(train_count(prepared)):
        return 0.0
    synthesis = Synthesis(prepared.plan.teacher, prepared.preprocess, settings.precision, steps)
    if not synthesis.is_possible:
        return 0.0
    pixels, augment = prepared.train.pixels, prepared.recipe.views.augment
    with tempfile.TemporaryDirectory(dir=folder, prefix=SCRATCH_PREFIX) as scratch:
        began = time.monotonic()
        synthesis.make(pixels, augment, count, settings.seed, Cache(Path(scratch)), lambda *_: None)
        return (time.monotonic() - began) / count / steps * options.steps


@dataclass
class _TimingStore:
    """A run store that only records timestamps."""

    cache: Cache
    step_times: dict[str, list[float]] = field(default_factory=dict)
    teacher_pass: list[tuple[float, int]] = field(default_factory=list)

    def unit(self, name: str) -> "_DiscardedTask":
        return _DiscardedTask()

    def metric(self, record: Mapping[str, object]) -> None:
        self.step_times.setdefault(str(record["unit"]), []).append(time.monotonic())

    def listen(self, event: Event) -> None:
        if isinstance(event, TeacherPass):
            self.teacher_pass.append((time.monotonic(), event.done))

    def step(self, unit: str, *, layered: bool) -> float:
        """Return the seconds per step, without the first step and the end of the task.

        This is the median, or for layers, which differ, the mean with the time between layers.
        """
        times = [later - earlier for earlier, later in pairwise(self.step_times.get(unit, [])[:-1])]
        return (mean if layered else median)(times) if times else 0.0

    def teacher_pass_time(self) -> tuple[float, int]:
        """Return the seconds of the teacher pass and the number of its views."""
        spans = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(self.teacher_pass) if b[1] > a[1]]
        return sum(seconds for seconds, _ in spans), sum(views for _, views in spans)


class _DiscardedTask:
    """A task state that is never stored."""

    state: dict[str, Any] | None = None
    finished: tuple[dict[str, Tensor], dict[str, Any]] | None = None

    def keep(self, step: int, state: Mapping[str, object]) -> None: ...
    def finish(self, tensors: dict[str, Tensor], facts: Mapping[str, object]) -> None: ...
