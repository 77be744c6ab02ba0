"""The laws that only a run can break, over pairs of different families."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from graftcli.graft.engine import run, weights_digest
from graftcli.graft.settings import EngineSettings
from graftcli.graft.surgery.merge import EXACT_LIMIT, ROUNDED_LIMIT
from graftcli.images import Images
from graftcli.images.pixels import Preprocess
from graftcli.models.cuts.plan import Plan, make
from graftcli.recipe import Recipe
from tests.engine import Memory, recipe, scheduled
from tests.nets import randomise
from tests.pairs import PAIRS

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
    return Images(pixels, tuple(f"{i}.png" for i in range(count)), (), frozenset(), "noise"), preprocess


def short() -> Recipe:
    """Every kind of stage, for a step each; BatchNorm in train mode wherever a stage may have it so."""
    stages = [{"name": "graft", "train": "blocks"}, {"name": "connect", "train": "growing"}]
    target = [{"at": "logits", "loss": "norm-l2"}]
    each = {"targets": target, "steps": 1, "batch": 2, "lr": 1e-4, "batchnorm": "train"}
    return recipe(stages=[{**stage, **each} for stage in stages], views={"count": 2, "augment": {"flip": True}})


@pytest.mark.parametrize("name", NAMES)
def test_a_run_keeps_the_laws(name: str, tmp_path: Path) -> None:
    pair = PAIRS[name]
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
            images,
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
