"""Tiny networks, images, recipes and an in-memory store for the engine's tests."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graftcli.events import Event
from graftcli.graft.backend.precision import Precision
from graftcli.graft.data.held_out import GivenImages, held_out_count
from graftcli.graft.data.teacher_cache import TeacherCache
from graftcli.graft.data.views import Views
from graftcli.graft.engine import Outcome, run
from graftcli.graft.initialize.frozen_blocks import frozen_blocks
from graftcli.graft.schedule import Schedule, schedule_of
from graftcli.graft.settings import EngineSettings
from graftcli.graft.surgery.seams import seams
from graftcli.graft.training.pieces import pieces
from graftcli.graft.training.trainer import TrainContext
from graftcli.images import Images
from graftcli.images.pixels import Preprocess
from graftcli.models.cuts import plan as plans
from graftcli.models.cuts.plan import Plan
from graftcli.models.network import Network, PreprocessDefaults
from graftcli.models.origin import ModuleOrigin
from graftcli.models.weights import Weights, WeightsOrigin
from graftcli.recipe import Recipe
from graftcli.recipe.values import Augment
from graftcli.store.cache_files import Cache
from graftcli.students.make import student_maker
from tests.nets import randomise

PREPROCESS = Preprocess((16, 16), 3, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 1.0, "bilinear", whole=True)


class Stages(nn.Module):
    """Three stages of plain convolutions; the first of each stage is strided, so that adapters fold forwards."""

    def __init__(self, widths: tuple[int, int, int], depth: int) -> None:
        super().__init__()
        inputs = (3, *widths)
        self.stages = nn.Sequential(*(self._stage(inputs[i], inputs[i + 1], depth, 1 + (i > 0)) for i in range(3)))
        self.head = nn.Linear(widths[-1], 5)

    @staticmethod
    def _stage(inputs: int, outputs: int, depth: int, stride: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for i in range(depth):
            conv = nn.Conv2d(outputs if i else inputs, outputs, 3, 1 if i else stride, 1, bias=False)
            layers.append(nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU()))
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(x).mean((2, 3)))  # type: ignore[no-any-return]


def network(module: nn.Module, name: str) -> Network:
    seen = PreprocessDefaults(PREPROCESS.mean, PREPROCESS.std, 1.0, "bilinear")
    origin: ModuleOrigin = {"kind": "in-memory", "key": name}
    return Network(module.eval(), name, "file", Weights(WeightsOrigin.RANDOM), (3, 16, 16), 5, seen, origin)


def plan(
    teacher: tuple[int, int, int] = (8, 12, 16), student: tuple[int, int, int] = (6, 8, 16), depth: int = 3
) -> Plan:
    """Networks with random weights; the teacher's BatchNorm statistics and scales are random too."""
    torch.manual_seed(0)
    module = randomise(Stages(teacher, depth), seed=1)
    return plans.make(network(module, "big"), network(Stages(student, max(1, depth - 1)), "small"))


def made_plan(spec: str, depth: int = 3) -> Plan:
    """A plan with a student that is derived from the teacher."""
    torch.manual_seed(0)
    teacher = network(randomise(Stages((8, 12, 16), depth), seed=1), "big")
    student = student_maker()(spec, teacher)
    assert student is not None
    return plans.make(teacher, student)


def images(count: int = 12) -> Images:
    pixels = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    return Images(pixels, tuple(f"{i}.png" for i in range(count)), (), np.array([], "S32"), "noise")


def recipe(**changes: object) -> Recipe:
    """A recipe with a few steps of each kind of stage."""
    stages: list[dict[str, Any]] = [
        {
            "name": "graft",
            "train": "blocks",
            "targets": [{"at": "output", "loss": "mse"}, {"at": "logits", "loss": "norm-l2"}],
        },
        {"name": "connect", "train": "growing", "targets": [{"at": "logits", "loss": "norm-l2"}]},
        {"name": "finish", "train": "student", "targets": [{"at": "features", "loss": "mse"}], "ema": 0.9},
    ]
    every: dict[str, Any] = {"steps": 6, "batch": 4, "lr": 1e-3}
    whole = {
        "name": "tiny",
        "about": "for tests",
        "init": "inherit",
        "adapters": {"start": "least-squares"},
        "views": {"count": 4, "augment": {"crop": {"padding": 0.125}, "flip": True}},
        "stages": [{**every, **stage} for stage in stages],
    }
    return Recipe.model_validate({**whole, **changes})


def context(folder: Path) -> TrainContext:
    """Twelve views for the tiny networks, with nothing cached."""
    found = plan()
    both = pieces(found, seams(found))
    views = Views(images().pixels, PREPROCESS, Augment(), 1, 0)
    answers = TeacherCache(
        views, both.teacher, both.shapes, {}, cache=Cache(folder), chunk=4, precision=Precision(torch.device("cpu"))
    )
    return TrainContext(both, answers, 12, 0, Precision(torch.device("cpu")))


class Memory:
    """An in-memory run store, which can raise when any chosen state is saved."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.cache = Cache(folder / "cache")
        self.units: dict[str, MemoryUnit] = {}
        self.records: list[dict[str, Any]] = []

    def unit(self, name: str) -> "MemoryUnit":
        return self.units.setdefault(name, MemoryUnit())

    def metric(self, record: Mapping[str, object]) -> None:
        self.records.append(dict(record))


class MemoryUnit:
    def __init__(self) -> None:
        self.state: dict[str, Any] | None = None
        self.finished: tuple[dict[str, Tensor], dict[str, Any]] | None = None

    def keep(self, step: int, state: Mapping[str, object]) -> None:
        self.state = dict(state)

    def finish(self, tensors: dict[str, Tensor], facts: Mapping[str, object]) -> None:
        self.finished = {name: tensor.clone() for name, tensor in tensors.items()}, dict(facts)


def trained(
    made: Plan,
    store: Memory,
    wanted: Recipe | None = None,
    settings: EngineSettings | None = None,
    count: int = 12,
    listen: Callable[[Event], None] = lambda _: None,
) -> Outcome:
    settings, noise = settings or EngineSettings(), images(count)
    schedule = scheduled(wanted or recipe(), made, noise, settings)
    return run(made, GivenImages(noise), PREPROCESS, schedule, settings, store, listen)


def scheduled(wanted: Recipe, plan: Plan, images: Images, settings: EngineSettings | None = None) -> Schedule:
    """The schedule of a run without --val-images."""
    count, chosen = len(images.pixels), settings.blocks if settings else None
    return schedule_of(wanted, count - held_out_count(count), len(plan.blocks), chosen, frozen_blocks(wanted, plan))
