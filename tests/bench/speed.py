"""How fast the engine is, in ratios: resnet56 -> resnet20, the published recipe and the default one.

    python tests/bench/speed.py                      (a) (c) (d) (e), then (b) with a run of `netgraft` from the start
    python tests/bench/speed.py --netgraft RUN,259   (b) against a finished run of `netgraft` that took so many CPU seconds
    python tests/bench/speed.py --parts d --large    10,000 images of 224 pixels too

CPU seconds throughout, medians of calls that take turns; on the images of $GRAFTCLI_DATA, or on noise where it is not set.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from PIL import Image
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from graftcli.environment.machine import cpu, usable_cores
from graftcli.graft.adapters import start_adapters
from graftcli.graft.answers import Answers
from graftcli.graft.inherit import inherit
from graftcli.graft.layout import lay_out
from graftcli.graft.norms import trained_as
from graftcli.graft.seams import seams
from graftcli.graft.stages import Task, loss, pieces, tasks, wanted
from graftcli.graft.training import BlockTraining, Material, Precision
from graftcli.graft.views import Views, plain
from graftcli.images import Fit, Images, load
from graftcli.recipe import Recipe
from graftcli.recipe.file import load as load_recipe
from tests.bench.plain import NETS, Plain, networks
from tests.bench.timing import interleaved, watched

DATA = Path(os.environ.get("GRAFTCLI_DATA", "data"))
CIFAR = DATA / "cifar10"
TEACHER = CIFAR / "teachers/resnet56-4bfd9763.th"
FIT = Fit((32, 32), 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 1.0, "bilinear", whole=True)
PLAIN = "plain"
LITERAL = "plain, as released"
VIEWS = 12  # of each image: what a step costs does not depend on how many are remembered


class Unkept:
    """A unit whose state nobody keeps."""

    state = None

    def keep(self, step: int, state: object) -> None:
        pass


@dataclass(frozen=True)
class Step:
    """The CPU seconds of one step of a unit."""

    recipe: str
    unit: str
    count: int  # steps that the recipe makes of it
    seconds: float
    plain: float
    literal: float  # with gradients of the teacher's weights, as the released code has them
    bare: float  # the grafted network's forward and backward alone

    @property
    def stage(self) -> str:
        return self.unit.partition("-")[0]


def training_images(folder: Path) -> Images:
    """Ten images a class, or as much noise."""
    source = CIFAR / "10shot-draw0"
    return load(source if source.is_dir() else noise(folder / "noise", 100, 32), FIT)


def noise(folder: Path, count: int, size: int) -> Path:
    """A folder of so many JPEG images, smooth ones, as photographs are."""
    folder.mkdir()
    source = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(source.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((size, size), Image.Resampling.BICUBIC).save(folder / f"{number:05}.jpg", quality=90)
    return folder


# -- (a), (c): a step ---------------------------------------------------------------------------------------------


def material(recipe: Recipe, images: Images, folder: Path) -> tuple[Material, float]:
    """What a run's tasks are trained with, made as a run makes it, and the CPU seconds of the look at one view."""
    plan = networks(TEACHER if TEACHER.is_file() else None)
    looked_at = plain(images.pixels[:64], FIT)
    if recipe.init == "inherit":
        inherit(plan.teacher, plan.student, looked_at)
    joined = seams(plan, recipe.adapters.where)
    both = pieces(plan, joined)
    lay_out(both, looked_at[:2])
    start_adapters(recipe.adapters.start, plan, joined, both, looked_at, 0)
    views = Views(images.pixels, FIT, recipe.views.augment, VIEWS, 0)
    values = {value for task in tasks(recipe, both.blocks, (1, 2, 3)) for value in wanted(task, both)}
    answers = Answers(
        views, both.teacher, both.shapes, dict.fromkeys(values, "memory"), folder=folder, chunk=256, device=CPU
    )
    began = time.process_time()
    answers.look(values, lambda *_: None)
    return Material(both, answers, len(images.pixels), 0, Precision(CPU)), (time.process_time() - began) / len(views)


CPU = torch.device("cpu")


def stepping(training: BlockTraining) -> Callable[[], None]:
    """What `fit` does in a step that is no mark."""

    def step() -> None:
        error = training.error()
        training.course.loss.has_run_away(training.course.step, float(error.detach()))
        training.step(error)

    return step


def bare(training: BlockTraining) -> Callable[[], None]:
    """The grafted network's forward and backward, on tensors that lie there."""
    task, both = training.task, training.material.pieces
    index = training.order.at(0)
    features = training.material.answers.at(task.first - 1, index)
    said = {value: training.material.answers.at(value, index) for value in training.targets}

    def step() -> None:
        training.moving.zero_grad()
        loss(task, both, training.grafted(features, training.targets), said).backward()

    return step


def step_of(recipe: Recipe, task: Task, given: Material, rounds: int) -> Step:
    training = BlockTraining(task, given, Unkept())
    views = given.answers.views.normalised(torch.arange(training.batch))
    checkpoint = TEACHER if TEACHER.is_file() else None
    written = {
        name: Plain(networks(checkpoint), task.blocks, literal=name == LITERAL).step for name in (PLAIN, LITERAL)
    }
    calls: dict[str, Callable[[], object]] = {"step": stepping(training), "bare": bare(training)}
    calls |= {name: _on(step, views) for name, step in written.items()}
    with trained_as(task.stage, training.moving):
        taken = interleaved(calls, rounds)
    return Step(
        recipe.name,
        task.name,
        task.steps(given.images),
        taken["step"],
        taken[PLAIN],
        taken[LITERAL],
        taken["bare"],
    )


def _on(step: Callable[[Tensor], object], images: Tensor) -> Callable[[], object]:
    return lambda: step(images)


def steps(images: Images, folder: Path, rounds: int) -> Iterator[tuple[Recipe, list[Step], float]]:
    for name in ("netgraft", "graft"):
        recipe = load_recipe(name)
        given, look = material(recipe, images, folder)
        yield recipe, [step_of(recipe, t, given, rounds) for t in tasks(recipe, 3, (1, 2, 3))], look


