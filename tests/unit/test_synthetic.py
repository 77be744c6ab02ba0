"""Synthetic images match the teacher's statistics better than the views they start from, the same every time."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from graftcli.events import Event, SyntheticImages
from graftcli.graft.backend.precision import Precision
from graftcli.graft.data.synthetic import Synthesis, _Moments, _statistics_losses
from graftcli.graft.data.views import Views, synthetic_views
from graftcli.graft.engine import weights_digest
from graftcli.images import Preprocess, normalise
from graftcli.models.cuts import plan as plans
from graftcli.models.cuts.plan import Side
from graftcli.recipe import Recipe
from graftcli.recipe.values import Augment
from graftcli.store.cache_files import Cache
from tests.engine import PREPROCESS, Memory, Stages, network, plan, recipe, trained
from tests.nets import randomise

HOW = Precision(torch.device("cpu"))
PLAIN = Augment()


@torch.no_grad()
def remembering(module: nn.Module) -> nn.Module:
    """The network with the statistics of smooth pictures, which noise does not have."""
    coarse = torch.rand(64, 3, 4, 4, generator=torch.Generator().manual_seed(11)) * 255
    norms = [norm for norm in module.modules() if isinstance(norm, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    module.train()(normalise(nn.functional.interpolate(coarse, size=(16, 16), mode="bilinear"), PREPROCESS))
    return module.eval()


def teacher(module: nn.Module | None = None) -> Side:
    big = remembering(module or randomise(Stages((8, 12, 16), 3), seed=1))
    return plans.make(network(big, "big"), network(Stages((6, 8, 16), 2), "small")).teacher


def pictures(preprocess: Preprocess = PREPROCESS, count: int = 120) -> Tensor:
    return torch.randint(
        0, 256, (count, 3, *preprocess.stored_size), dtype=torch.uint8, generator=torch.Generator().manual_seed(3)
    )


def synthesised(
    folder: Path,
    side: Side,
    preprocess: Preprocess = PREPROCESS,
    count: int = 32,
    steps: int = 10,
    seed: int = 0,
    augment: Augment = PLAIN,
) -> Tensor:
    return Synthesis(side, preprocess, HOW, steps).make(
        pictures(preprocess), augment, count, seed, Cache(folder), lambda *_: None
    )


@torch.no_grad()
def scores(side: Side, pixels: Tensor) -> Tensor:
    return side.network.module(normalise(pixels, PREPROCESS))  # type: ignore[no-any-return]


def difference(side: Side, pixels: Tensor) -> float:
    with _statistics_losses(
        [norm for norm in side.network.module.modules() if isinstance(norm, nn.BatchNorm2d)]
    ) as found:
        scores(side, pixels)
    assert len(found) == 9
    return sum(map(float, found))


def test_their_statistics_are_nearer_to_the_teachers(tmp_path: Path) -> None:
    side = teacher()
    assert difference(side, synthesised(tmp_path, side)) < 0.5 * difference(side, pictures()[:32])


def test_they_follow_the_classes_that_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    side = teacher()
    with_classes = synthesised(tmp_path / "one", side, steps=60)
    monkeypatch.setattr("graftcli.graft.data.synthetic.CLASS_WEIGHT", 0.0)
    without = synthesised(tmp_path / "two", side, steps=60)
    drawn = (5 * torch.rand(32, generator=torch.Generator().manual_seed(0))).long()
    followed, ignored = (nn.functional.cross_entropy(scores(side, made), drawn) for made in (with_classes, without))
    assert followed < ignored - 0.1


def test_the_teacher_is_as_before_and_the_images_are_the_same_again_and_others_of_another_seed(tmp_path: Path) -> None:
    side = teacher()
    before = weights_digest(side.network.module)
    one, two = (synthesised(tmp_path / name, side, count=120) for name in ("one", "two"))
    assert torch.equal(one, two)
    assert weights_digest(side.network.module) == before
    assert one.shape == (120, 3, 16, 16) and one.dtype == torch.uint8
    assert not torch.equal(one, synthesised(tmp_path / "three", side, count=120, seed=1))


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 4), (6, 5, 4, 3)])
def test_moments_and_their_gradient_are_those_of_each_channel(shape: tuple[int, ...]) -> None:
    given = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3 + 1
    given.requires_grad_(True)
    weights = torch.randn(2, 5, generator=torch.Generator().manual_seed(1))
    over = [0, *range(2, given.ndim)]
    plainly = given.mean(over), given.var(over, unbiased=False)
    found = _Moments.apply(given)
    for own, expected in zip(found, plainly, strict=True):
        assert torch.allclose(own, expected, rtol=1e-5)
    slopes = [
        torch.autograd.grad(sum((w * m.square()).sum() for w, m in zip(weights, both, strict=True)), given)[0]
        for both in (found, plainly)
    ]
    assert torch.allclose(slopes[0], slopes[1], rtol=1e-4, atol=1e-6)


def test_hooks_are_removed_once_statistics_are_gathered() -> None:
    side = teacher()
    difference(side, pictures()[:4])
    assert not any(module._forward_pre_hooks for module in side.network.module.modules())


def test_what_was_made_before_is_taken_and_what_is_not_whole_is_made_again(tmp_path: Path) -> None:
    side = teacher()
    whole = synthesised(tmp_path, side, count=120)
    first, second = sorted(tmp_path.glob("*.bin"))
    assert first.stat().st_size == second.stat().st_size  # none of few images, which have statistics of their own
    kept, damaged = (path.stat().st_ino for path in (first, second))
    second.write_bytes(second.read_bytes()[:-1])
    assert torch.equal(synthesised(tmp_path, side, count=120), whole)
    assert first.stat().st_ino == kept and second.stat().st_ino != damaged
    first.write_bytes(bytes(first.stat().st_size))
    assert torch.equal(synthesised(tmp_path, side, count=120), whole)


def test_of_larger_images_all_that_is_kept_is_made(tmp_path: Path) -> None:
    preprocess = replace(PREPROCESS, crop_pct=0.8)
    assert preprocess.stored_size == (20, 20)
    made = synthesised(tmp_path, teacher(), preprocess, 8, 40)
    assert made.shape == (8, 3, 20, 20)
    changed = (made != pictures(preprocess)[:8]).float().mean((0, 1))
    assert bool((changed > 0).all())  # up to the corners


def test_only_what_may_be_mirrored_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def seen(augment: Augment) -> set[bool]:
        """Whether the teacher sees the images as they are (True), mirrored (False), or both."""
        found = []

        def loss(self: Synthesis, pixels: Tensor, class_draws: Tensor) -> Tensor:
            found.append(bool(pixels[0, 0, 0, 0] > pixels[0, 0, 0, -1]))
            return pixels.sum() * 0

        monkeypatch.setattr(Synthesis, "_loss", loss)
        falling = torch.linspace(200, 50, 16)[None, None, None].expand(4, 3, 16, 16).to(torch.uint8)
        synthesis = Synthesis(teacher(), PREPROCESS, HOW, 20)
        monkeypatch.setattr("graftcli.graft.data.synthetic.SHIFT_DIVISOR", 17)
        synthesis.make(falling, augment, 4, 0, Cache(tmp_path / str(augment.flip)), lambda *_: None)
        return set(found)

    assert seen(Augment()) == {True}
    assert seen(Augment(flip=True)) == {True, False}


class Guarded(Stages):
    """A forward that asks for no gradients, as networks that are only ever deployed do."""

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class Spare(Stages):
    """A norm that is never used."""

    def __init__(self, widths: tuple[int, int, int], depth: int) -> None:
        super().__init__(widths, depth)
        self.spare = nn.BatchNorm2d(7)


@pytest.mark.parametrize("kind", [Guarded, Spare])
def test_what_a_network_does_around_its_layers_does_not_matter(tmp_path: Path, kind: type[Stages]) -> None:
    side = teacher(randomise(kind((8, 12, 16), 3)))
    assert not torch.equal(synthesised(tmp_path, side), pictures()[:32])


class Silent(Stages):
    """BatchNorms that are there, but not those that compute."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.stages.modules():
            x = layer(x) if isinstance(layer, nn.Conv2d | nn.ReLU) else x
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def test_batchnorms_without_statistics_are_left_out() -> None:
    big = network(randomise(Silent((8, 12, 16), 3)), "big")
    side = plans.make(big, network(Stages((6, 8, 16), 2), "small")).teacher
    assert not Synthesis(side, PREPROCESS, HOW, 3).is_possible
    assert Synthesis(teacher(), PREPROCESS, HOW, 3).is_possible


def test_a_teacher_without_an_answer_leaves_the_views_as_they_are(tmp_path: Path) -> None:
    side = teacher()
    synthesis = Synthesis(side, PREPROCESS, HOW, 5)
    synthesis.norms[0].running_mean.fill_(float("nan"))  # type: ignore[union-attr]
    made = synthesis.make(pictures(), PLAIN, 32, 0, Cache(tmp_path), lambda *_: None)
    assert torch.equal(made, pictures()[:32])


def with_synthetic() -> Recipe:
    short = recipe(views={"count": 128, "synthetic": {"images": 60, "steps": 3}})
    stages = tuple(stage.model_copy(update={"batch": 64, "steps": (1,)}) for stage in short.stages[:-1])
    stages += (short.stages[-1].model_copy(update={"batch": 800, "steps": (20,)}),)
    return short.model_copy(update={"stages": stages})


def test_a_run_is_trained_on_them_too(tmp_path: Path) -> None:
    events: list[Event] = []
    recipe = with_synthetic()
    store, other = Memory(tmp_path), Memory(tmp_path / "without")
    trained(plan(), store, recipe, listen=events.append)
    made = [event for event in events if isinstance(event, SyntheticImages)]
    assert (made[0], made[-1]) == (
        SyntheticImages(0, 40),
        SyntheticImages(40, 40),
    )  # one for each 400 of 20 x 800 views
    without = recipe.model_copy(update={"views": recipe.views.model_copy(update={"synthetic": None})})
    trained(plan(), other, without)
    losses = [[record["loss"] for record in one.records] for one in (store, other)]
    assert losses[0] != losses[1]  # what is kept of the training may be the weights before it, in both


def test_a_run_interrupted_while_images_are_made_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graftcli.graft.data.synthetic.MAX_BATCH", 10)
    expected = weights_digest(trained(plan(), Memory(tmp_path / "whole"), with_synthetic()).merged.module)
    store, wanted, seen = Memory(tmp_path / "broken"), with_synthetic(), list[int]()

    def listen(event: Event) -> None:
        if isinstance(event, SyntheticImages):
            seen.append(event.done)
            if event.done == 20:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(plan(), store, wanted, listen=listen)
    assert seen == [0, 10, 20] and len(list(store.cache.folder.glob("synthetic-*.bin"))) == 2
    assert weights_digest(trained(plan(), store, wanted).merged.module) == expected


def test_a_teacher_without_batchnorm_statistics_makes_none(tmp_path: Path) -> None:
    class Plain(Stages):
        @staticmethod
        def _stage(inputs: int, outputs: int, depth: int, stride: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.ReLU())

    events: list[Event] = []
    both = (network(Plain((8, 12, 16), 1), "big"), network(Plain((6, 8, 16), 1), "small"))
    trained(plans.make(*both), Memory(tmp_path), with_synthetic(), listen=events.append)
    assert events and not any(isinstance(event, SyntheticImages) for event in events)


def test_views_show_them_as_often_as_the_others_at_most() -> None:
    def share(synthetic: int) -> float:
        black, white = torch.zeros(20, 3, 16, 16, dtype=torch.uint8), torch.full((synthetic, 3, 16, 16), 255)
        views = Views(black, PREPROCESS, Augment(), 50, 0, [synthetic_views(white.to(torch.uint8), 20)])
        assert len(views) == 1000
        return float(views[torch.arange(1000)].float().mean() / 255)

    assert abs(share(200) - 0.5) < 0.05
    assert abs(share(5) - 0.2) < 0.05
