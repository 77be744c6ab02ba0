"""Synthetic images: nearer to what the teacher remembers than the views they began as, and the same every time."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from graftcli.events import Event, Synthesised, Warned
from graftcli.graft.run import weights_digest
from graftcli.graft.synthetic import Synthesis, _differences, wanted_images
from graftcli.graft.training import Precision
from graftcli.graft.views import Views
from graftcli.images import Fit, normalise
from graftcli.nets import plan as plans
from graftcli.recipe import Recipe
from graftcli.recipe.values import Augment
from tests.engine import FIT, Memory, Stages, network, plan, recipe, trained
from tests.nets import randomise

HOW = Precision(torch.device("cpu"))


@torch.no_grad()
def remembering(module: nn.Module) -> nn.Module:
    """The network with the statistics of smooth pictures, which noise does not have."""
    coarse = torch.rand(64, 3, 4, 4, generator=torch.Generator().manual_seed(11)) * 255
    norms = [norm for norm in module.modules() if isinstance(norm, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    module.train()(normalise(nn.functional.interpolate(coarse, size=(16, 16), mode="bilinear"), FIT))
    return module.eval()


def teacher() -> nn.Module:
    return remembering(plan().teacher.network.module)


def started(fit: Fit = FIT, count: int = 120) -> Views:
    pixels = torch.randint(0, 256, (count, 3, *fit.kept), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    return Views(pixels, replace(fit, size=fit.kept, crop_pct=1.0), Augment(flip=True), 1, 0)


def synthesised(folder: Path, module: nn.Module, fit: Fit = FIT, count: int = 120, steps: int = 10) -> Tensor:
    return Synthesis(module, fit, HOW, steps).of(started(fit), count, folder, lambda *_: None)


@torch.no_grad()
def differences(module: nn.Module, pixels: Tensor) -> list[float]:
    norms = [norm for norm in module.modules() if isinstance(norm, nn.BatchNorm2d)]
    with _differences([*norms]) as found:
        module(normalise(pixels, FIT))
    return [float(one) for one in found]


def test_their_statistics_are_nearer_to_those_that_the_teacher_remembers(tmp_path: Path) -> None:
    module = teacher()
    before = differences(module, started()[torch.arange(32)])
    after = differences(module, synthesised(tmp_path, module)[:32])
    assert sum(after) < 0.5 * sum(before)


@torch.no_grad()
def classes(module: nn.Module, pixels: Tensor) -> int:
    return module(normalise(pixels, FIT)).argmax(1).unique().numel()  # type: ignore[no-any-return]


def test_they_are_of_more_classes_to_the_teacher(tmp_path: Path) -> None:
    module = teacher()
    assert classes(module, started()[torch.arange(32)]) < classes(module, synthesised(tmp_path, module, steps=60)[:32])


def test_the_teacher_is_as_before_and_the_images_are_the_same_again(tmp_path: Path) -> None:
    module = teacher()
    before = weights_digest(module)
    one, two = (synthesised(tmp_path / name, module) for name in ("one", "two"))
    assert torch.equal(one, two)
    assert weights_digest(module) == before and not any(m._forward_pre_hooks for m in module.modules())
    assert one.shape == (120, 3, 16, 16) and one.dtype == torch.uint8


def test_what_was_made_before_is_taken_and_what_is_not_whole_is_made_again(tmp_path: Path) -> None:
    module = teacher()
    whole = synthesised(tmp_path, module)
    first, second = sorted(tmp_path.glob("*.bin"))
    first.write_bytes(bytes(first.stat().st_size))
    second.write_bytes(second.read_bytes()[:-1])
    again = synthesised(tmp_path, module)
    assert not again[:96].any()  # taken as it lies there
    assert torch.equal(again[96:], whole[96:])


def test_of_larger_images_all_that_is_kept_is_made(tmp_path: Path) -> None:
    fit = replace(FIT, crop_pct=0.8)
    assert fit.kept == (20, 20)
    made = synthesised(tmp_path, teacher(), fit, 8, 40)
    begun = started(fit)[torch.arange(8)]
    assert made.shape == (8, 3, 20, 20)
    changed = (made != begun).float().mean((0, 1))
    assert bool((changed > 0).all())  # up to the corners


class WithoutClasses(Stages):
    def forward(self, x: Tensor) -> Tensor:
        return self.stages(x)  # type: ignore[no-any-return]


def test_a_teacher_without_classes_has_its_statistics_alone(tmp_path: Path) -> None:
    module = remembering(randomise(WithoutClasses((8, 12, 16), 3)))
    assert sum(differences(module, synthesised(tmp_path, module)[:32])) < 0.5 * sum(
        differences(module, started()[torch.arange(32)])
    )


@pytest.mark.parametrize(
    ("there", "views", "made"),
    [(10, 40_000, 590), (100, 40_000, 500), (600, 40_000, 0), (5000, 40_000, 0), (10, 640, 10)],
)
def test_as_many_are_made_as_are_missing_and_fewer_for_a_short_run(there: int, views: int, made: int) -> None:
    assert wanted_images(there, views, 600) == made


def with_synthetic() -> Recipe:
    short = recipe(views={"count": 128, "synthetic": {"images": 40, "steps": 3}})
    stages = tuple(stage.model_copy(update={"batch": 64}) for stage in short.stages)
    return short.model_copy(update={"stages": stages})


def test_a_run_is_trained_on_them_too(tmp_path: Path) -> None:
    events: list[Event] = []
    trained(plan(), Memory(tmp_path), with_synthetic(), listen=events.append)
    told = [event for event in events if isinstance(event, Synthesised)]
    assert told[0] == Synthesised(0, told[0].total) and told[-1] == Synthesised(told[0].total, told[0].total)
    assert told[0].total == 6  # 6 steps of 64 views


def test_a_teacher_that_remembers_no_statistics_makes_none_and_says_so(tmp_path: Path) -> None:
    class Plain(Stages):
        @staticmethod
        def _stage(inputs: int, outputs: int, depth: int, stride: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.ReLU())

    events: list[Event] = []
    both = (network(Plain((8, 12, 16), 1), "big"), network(Plain((6, 8, 16), 1), "small"))
    trained(plans.make(*both), Memory(tmp_path), with_synthetic(), listen=events.append)
    assert any(isinstance(event, Warned) and "no BatchNorm" in event.text for event in events)
    assert not any(isinstance(event, Synthesised) for event in events)


def test_views_show_them_as_often_as_the_others_at_most() -> None:
    def share(synthetic: int) -> float:
        black, white = torch.zeros(20, 3, 16, 16, dtype=torch.uint8), torch.full((synthetic, 3, 16, 16), 255)
        views = Views(black, FIT, Augment(), 50, 0, white.to(torch.uint8))
        assert len(views) == 1000
        return float(views[torch.arange(1000)].float().mean() / 255)

    assert abs(share(200) - 0.5) < 0.05
    assert abs(share(5) - 0.2) < 0.05
