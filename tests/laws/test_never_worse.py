"""No recipe ends with a student that agrees less with the teacher than the blocks that its last stage began with."""

from pathlib import Path

import pytest
import torch

from graftcli.graft.data.views import Views
from graftcli.graft.engine import Outcome, run
from graftcli.graft.initialize.frozen_blocks import frozen_blocks
from graftcli.graft.initialize.random_blocks import random_blocks
from graftcli.graft.settings import EngineSettings
from graftcli.graft.training.judge import Verdict
from graftcli.images import Images
from graftcli.images.pixels import Preprocess
from graftcli.models.cuts import plan as plans
from graftcli.models.cuts.plan import Plan
from graftcli.models.network import Network
from graftcli.recipe import Recipe
from graftcli.recipe.file import load, shipped
from graftcli.students.make import student_maker
from tests.engine import Memory, scheduled
from tests.laws.test_engine_families import NAMES, noise
from tests.pairs import PAIRS

_OF_MADE_STUDENTS = ("fskd", "cross", "grail", "practise")
_TOO_FAST = 30  # times the recipe's own rate


def hurried(name: str) -> Recipe:
    """The recipe in a step a task, at a rate that ruins most networks."""
    short = load(name, (), 1.0)
    rates = {
        stage.name: tuple(min(1.0, rate * _TOO_FAST) for rate in stage.lr) if stage.lr is not None else None
        for stage in short.stages
    }
    stages = tuple(
        stage.model_copy(update={"steps": (1,), "epochs": None, "batch": 4, "lr": rates[stage.name]})
        for stage in short.stages
    )
    views = short.views.model_copy(update={"total": None, "count": 2, "synthetic": None})
    return short.model_copy(update={"stages": stages, "views": views})


@pytest.mark.parametrize("name", [name for name in NAMES if name != "shufflenet"])  # it cannot be pruned
def test_no_recipe_makes_a_student_worse(name: str, tmp_path: Path) -> None:
    pair = PAIRS[name]
    teacher, student = pair.teacher(), pair.student()
    centre(teacher)
    plan = plans.make(teacher, student, pair.choice) if pair.choice else plans.make(teacher, student)
    narrow = student_maker()("prune:l1=0.4", teacher)
    assert narrow is not None
    made, count = None, 0
    for recipe in shipped():
        if recipe in _OF_MADE_STUDENTS:
            made = made or plans.make(teacher, narrow)
        both = made if recipe in _OF_MADE_STUDENTS and made is not None else plan
        module = both.student.network.module
        before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
        short, (images, preprocess) = hurried(recipe), noise(both)
        outcome = run(
            both,
            images,
            preprocess,
            scheduled(short, both, images),
            EngineSettings(),
            Memory(tmp_path / recipe),
            lambda _: None,
        )
        random = set(random_blocks(short, both, frozen_blocks(short, both)))
        for unit, verdict in outcome.verdicts.items():
            blocks = {int(number) for number in unit.split("-")[1:]} or set(range(1, len(both.blocks) + 1))
            if random.isdisjoint(blocks):
                assert verdict.kept.agreement >= verdict.before.agreement, (recipe, unit)
            random -= blocks
        last = list(outcome.verdicts.values())[-1]
        views = 8 * len(images.pixels)
        assert abs(agreement(both, outcome, images, preprocess, short) - last.kept.agreement) <= 1.01 / views, recipe
        count += any(map(is_setback, outcome.verdicts.values()))
        module.load_state_dict(before)
    assert count > 0, "no rate was high enough to make any student worse"


@torch.no_grad()
def centre(teacher: Network) -> None:
    """Shift the teacher's last biases, so that it does not answer noise with one and the same class."""
    pixels = torch.randn(8, *teacher.input_size, generator=torch.Generator().manual_seed(2))
    biases = [
        p for name, p in teacher.module.named_parameters() if p.shape == (teacher.num_classes,) and "bias" in name
    ]
    biases[-1].sub_(teacher.module(pixels).mean(0))


def is_setback(verdict: Verdict) -> bool:
    return verdict.is_setback


@torch.no_grad()
def agreement(plan: Plan, outcome: Outcome, images: Images, preprocess: Preprocess, recipe: Recipe) -> float:
    """How often the merged student has the teacher's first answer on the views that it was judged by."""
    views = Views(images.pixels, preprocess, recipe.views.augment, 8, EngineSettings().seed + 1)
    pixels = views.normalised(torch.arange(len(views)))
    answers = [module(pixels).argmax(1) for module in (plan.teacher.network.module, outcome.merged.module)]
    return float((answers[0] == answers[1]).float().mean())
