"""Whole runs over pairs of different families keep the laws, and no recipe makes a student worse."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from graftcli.graft.data.held_out import GivenImages
from graftcli.graft.data.views import Views
from graftcli.graft.engine import Outcome, run, weights_digest
from graftcli.graft.initialize.frozen_blocks import frozen_blocks
from graftcli.graft.initialize.random_blocks import random_blocks
from graftcli.graft.settings import EngineSettings
from graftcli.graft.surgery.merge import EXACT_LIMIT, ROUNDED_LIMIT
from graftcli.graft.training.judge import Verdict
from graftcli.images import Images
from graftcli.images.pixels import Preprocess
from graftcli.models.cuts.plan import Plan, make
from graftcli.models.network import Network
from graftcli.recipe import Recipe
from graftcli.recipe.file import load, shipped
from graftcli.students.make import student_maker
from tests.engine import Memory, recipe, scheduled
from tests.nets import randomise
from tests.pairs import PAIRS, Pair, resnet10, resnet26

FAMILIES = {**PAIRS, "resnet bottleneck, basic": Pair(resnet26, resnet10)}
NAMES = (
    *("resnet bottleneck, basic", "resnet, mobilenet_v2", "regnetx", "efficientnet, mobilenet_v3, same padding"),
    *("convnext", "swin", "resnet, swin", "dla, mobilenet_v2", "vgg with a flattened map"),
    *("mobilevit, some modules kept whole", "shufflenet", "deit", "resnet for small images, option A"),
)


def noise(plan: Plan, count: int = 4) -> tuple[Images, Preprocess]:
    channels, height, width = plan.teacher.network.input_size
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)
    preprocess = Preprocess(
        (height, width), channels, (0.5,) * channels, (0.25,) * channels, 1.0, "bilinear", whole=True
    )
    return Images(pixels, tuple(f"{i}.png" for i in range(count)), (), np.array([], "S32"), "noise"), preprocess


def short() -> Recipe:
    """Every kind of stage, for a step each; BatchNorm in train mode wherever a stage may have it so."""
    stages = [{"name": "graft", "train": "blocks"}, {"name": "connect", "train": "growing"}]
    target = [{"at": "logits", "loss": "norm-l2"}]
    each = {"targets": target, "steps": 1, "batch": 2, "lr": 1e-4, "batchnorm": "train"}
    return recipe(stages=[{**stage, **each} for stage in stages], views={"count": 2, "augment": {"flip": True}})


@pytest.mark.parametrize("name", NAMES)
def test_a_run_keeps_the_laws(name: str, tmp_path: Path) -> None:
    pair = FAMILIES[name]
    teacher, student = pair.teacher(), pair.student()
    plan = make(teacher, student, pair.choice) if pair.choice else make(teacher, student)
    before = weights_digest(teacher.module)
    own = {id(module) for module in student.module.modules()}
    strangers: list[nn.Module] = []

    def watch(module: nn.Module, _: object) -> None:
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training and id(module) not in own:
            strangers.append(module)

    images, preprocess = noise(plan)
    handle = register_module_forward_pre_hook(watch)
    try:
        outcome = run(
            plan,
            GivenImages(images),
            preprocess,
            scheduled(short(), plan, images),
            EngineSettings(),
            Memory(tmp_path),
            lambda _: None,
        )
    finally:
        handle.remove()

    assert not strangers, "a BatchNorm of the teacher ran in train mode"
    assert weights_digest(teacher.module) == before
    assert outcome.errors[0] <= EXACT_LIMIT and outcome.errors[1] <= ROUNDED_LIMIT
    assert outcome.merged.stock == pair.stock
    if pair.stock:
        fresh = randomise(pair.student().module, seed=99)
        fresh.load_state_dict(outcome.merged.module.state_dict(), strict=True)
        pixels = torch.randn(2, *teacher.input_size, generator=torch.Generator().manual_seed(1))
        assert torch.equal(fresh.eval()(pixels), outcome.merged.module(pixels))


# -- no recipe ends with a student that agrees less than the blocks that its last stage began with ------------------

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
    pair = FAMILIES[name]
    teacher, student = pair.teacher(), pair.student()
    centre(teacher)
    plan = make(teacher, student, pair.choice) if pair.choice else make(teacher, student)
    narrow = student_maker()("prune:l1=0.4", teacher)
    assert narrow is not None
    made, count = None, 0
    for recipe_name in shipped():
        if recipe_name in _OF_MADE_STUDENTS:
            made = made or make(teacher, narrow)
        both = made if recipe_name in _OF_MADE_STUDENTS and made is not None else plan
        module = both.student.network.module
        before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
        short, (images, preprocess) = hurried(recipe_name), noise(both)
        outcome = run(
            both,
            GivenImages(images),
            preprocess,
            scheduled(short, both, images),
            EngineSettings(),
            Memory(tmp_path / recipe_name),
            lambda _: None,
        )
        random = set(random_blocks(short, both, frozen_blocks(short, both)))
        for unit, verdict in outcome.verdicts.items():
            blocks = {int(number) for number in unit.split("-")[1:]} or set(range(1, len(both.blocks) + 1))
            if random.isdisjoint(blocks):
                assert verdict.kept.agreement >= verdict.before.agreement, (recipe_name, unit)
            random -= blocks
        last = list(outcome.verdicts.values())[-1]
        views = 8 * len(images.pixels)
        assert abs(agreement(both, outcome, images, preprocess, short) - last.kept.agreement) <= 1.01 / views, (
            recipe_name
        )
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
