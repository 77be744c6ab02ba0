"""Views and their order are functions of their number and the seed alone."""

import pytest
import torch
from torch import Tensor

from graftcli.graft.data.sampler import Sampler
from graftcli.graft.data.view_parameters import draw_view_parameters
from graftcli.graft.data.views import Views, _in_blobs, plain
from graftcli.images.pixels import Preprocess
from graftcli.recipe.values import Augment, Colour, Crop, Mix, Paste, ResizedCrop

PREPROCESS = Preprocess((16, 16), 3, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 1.0, "bilinear", whole=True)
EVERYTHING = Augment(
    crop=Crop(padding=0.125),
    flip=True,
    resized_crop=ResizedCrop(scale=(0.5, 1.0), share=0.5),
    colour=Colour(strength=0.3),
    mixup=Mix(share=0.6, alpha=0.4),
    cutmix=Paste(share=0.6, shape="blobs"),
)


def pictures(count: int = 5, side: int = 16) -> Tensor:
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(7))


def test_without_augmentation_a_view_is_its_image() -> None:
    views = Views(pictures(), PREPROCESS, Augment(), 3, seed=0)
    assert len(views) == 15
    assert torch.equal(views[torch.arange(15)], pictures().repeat(3, 1, 1, 1))


def test_a_view_is_the_same_alone_and_with_others_and_a_second_time() -> None:
    views, again = (Views(pictures(), PREPROCESS, EVERYTHING, 20, seed=3) for _ in range(2))
    together = views[torch.arange(100)]
    for i in (0, 17, 63, 99):
        assert torch.equal(again[torch.tensor([i])][0], together[i])


def test_cached_views_equal_those_that_are_drawn_again() -> None:
    index, size = torch.tensor([3, 3, 99, 0]), 100 * 3 * 16 * 16
    remembering = Views(pictures(), PREPROCESS, EVERYTHING, 20, seed=3, room=size)
    first, again = remembering[index], remembering[torch.arange(100)]
    forgetful = Views(pictures(), PREPROCESS, EVERYTHING, 20, seed=3, room=size - 1)
    assert (remembering.cached_bytes, forgetful.cached_bytes) == (size, 0)
    assert torch.equal(first, forgetful[index]) and torch.equal(again, forgetful[torch.arange(100)])


def test_another_seed_shows_something_else() -> None:
    one, other = (Views(pictures(), PREPROCESS, EVERYTHING, 20, seed=seed)[torch.arange(100)] for seed in (0, 1))
    assert (one != other).float().mean() > 0.5


def test_a_crop_is_a_shifted_copy_with_black_where_the_image_ends() -> None:
    image = pictures(1)
    views = Views(image, PREPROCESS, Augment(crop=Crop(padding=0.125)), 200, seed=0)[torch.arange(200)]
    padded = torch.nn.functional.pad(image, (2, 2, 2, 2))
    possible = {padded[:, :, y : y + 16, x : x + 16].numpy().tobytes() for y in range(5) for x in range(5)}
    seen = {view[None].numpy().tobytes() for view in views}
    assert seen <= possible
    assert len(seen) == len(possible) == 25


@pytest.mark.parametrize("alpha", [0.05, 0.4, 1.0, 8.0])
def test_weights_of_blends_are_of_the_beta_distribution(alpha: float) -> None:
    weights = draw_view_parameters(
        8, (32, 32), (32, 32), Augment(mixup=Mix(share=1.0, alpha=alpha)), 4000, seed=0
    ).mixup.weight
    assert abs(float(weights.mean()) - 0.5) < 0.01
    assert float(weights.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)
    assert len(weights.unique()) > len(weights) // 2


def test_flips_are_exact_and_about_half() -> None:
    views = Views(pictures(1), PREPROCESS, Augment(flip=True), 400, seed=0)[torch.arange(400)]
    same = (views == pictures(1)).flatten(1).all(1)
    mirrored = (views == pictures(1).flip(3)).flatten(1).all(1)
    assert bool((same | mirrored).all())
    assert 150 < int(same.sum()) < 250


def test_crops_stay_inside_an_image_that_was_kept_larger() -> None:
    preprocess = Preprocess((16, 16), 3, PREPROCESS.mean, PREPROCESS.std, 0.8, "bilinear", whole=True)
    white = torch.full((1, 3, *preprocess.stored_size), 255, dtype=torch.uint8)
    assert preprocess.stored_size == (20, 20)
    views = Views(
        white, preprocess, Augment(crop=Crop(padding=0.5), resized_crop=ResizedCrop(scale=(0.3, 1.0), share=0.5)), 50, 0
    )
    assert int(views[torch.arange(50)].min()) == 255


CUTS = [Augment(cutmix=Paste(share=1.0, shape=shape)) for shape in ("box", "blobs")]


@pytest.mark.parametrize("augment", [Augment(mixup=Mix(share=1.0)), *CUTS])
def test_a_mixed_view_lies_between_two_images(augment: Augment) -> None:
    flat = torch.tensor([0, 100], dtype=torch.uint8)[:, None, None, None].expand(2, 3, 16, 16).contiguous()
    views = Views(flat, PREPROCESS, augment, 100, seed=0)[torch.arange(200)].float()
    assert views.min() >= 0 and views.max() <= 100
    if augment.cutmix is not None:
        assert set(views.unique().tolist()) == {0.0, 100.0}
        share = views.mean((1, 2, 3)) / 100
        assert bool(((share > 0.05) & (share < 0.95)).any())
    else:
        assert views.unique().numel() > 20


@pytest.mark.parametrize("augment", CUTS)
@pytest.mark.parametrize("size", [(16, 16), (64, 40)])
def test_what_is_pasted_is_in_one_or_a_few_pieces_of_every_area(augment: Augment, size: tuple[int, int]) -> None:
    preprocess = Preprocess(size, 1, (0.5,), (0.25,), 1.0, "bilinear", whole=True)
    flat = torch.tensor([0, 100], dtype=torch.uint8)[:, None, None, None].expand(2, 1, *size).contiguous()
    views = Views(flat, preprocess, augment, 100, seed=0)
    own = flat[:, 0, 0, 0].repeat(100)[:, None, None]
    other = (views[torch.arange(200)][:, 0] != own).float()
    met = other.mean((1, 2)) > 0  # its partner is of the other colour, and shows
    other = other[met]
    share = other.mean((1, 2))
    assert int(met.sum()) > 60 and float(share.min()) < 0.15 and float(share.max()) > 0.7
    edges = (other[:, 1:] != other[:, :-1]).sum((1, 2)) + (other[:, :, 1:] != other[:, :, :-1]).sum((1, 2))
    assert bool((edges <= 4 * sum(size)).all())  # pieces, not specks: half of all pixels' borders would be edges


def test_blobs_leave_the_area_that_was_drawn() -> None:
    heights = torch.randn(500, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    share = torch.rand(500, generator=torch.Generator().manual_seed(1))
    for size in ((32, 32), (224, 160)):
        found = _in_blobs(heights, share, size).float().mean((1, 2, 3))
        assert float((found - share).abs().max()) < 0.02


def test_a_view_shows_up_to_four_images() -> None:
    flat = torch.tensor([10, 20, 40, 80, 160], dtype=torch.uint8)[:, None, None, None].expand(5, 3, 16, 16).contiguous()
    both = Augment(mixup=Mix(share=1.0), cutmix=Paste(share=1.0, shape="blobs"))
    views = Views(flat, PREPROCESS, both, 40, seed=0)
    shown = views[torch.arange(200)]
    kinds = torch.tensor([view.unique().numel() for view in shown])
    assert set(kinds.tolist()) <= {1, 2} and int((kinds == 2).sum()) > 150  # a blend, on it another blend
    assert sum(int(set(view.unique().tolist()).isdisjoint({10, 20, 40, 80, 160})) for view in shown) > 100


def test_plain_images_are_what_evaluation_sees() -> None:
    expected = (pictures().float() / 255 - 0.5) / 0.25
    assert torch.allclose(plain(pictures(), PREPROCESS), expected, atol=1e-6)


def test_all_views_are_seen_before_one_is_seen_again() -> None:
    order = Sampler(24, 8, 0, "graft-1")
    for first in (0, 3):
        seen = torch.cat([order.at(step) for step in range(first, first + 3)])
        assert sorted(seen.tolist()) == list(range(24))


def test_a_step_sees_the_same_views_wherever_the_run_begins() -> None:
    through = [Sampler(24, 8, 0, "graft-1").at(step) for step in range(7)]
    order = Sampler(24, 8, 0, "graft-1")
    assert all(torch.equal(order.at(step), through[step]) for step in (6, 2, 5, 0))


def test_any_seed_is_one_that_torch_takes() -> None:
    orders = [Sampler(1000, 8, seed, "graft-1").at(0) for seed in (2**62, 2**62 - 1)]
    assert not torch.equal(*orders)


def test_seeds_and_tasks_see_other_orders() -> None:
    orders = [Sampler(1000, 8, seed, name).at(0) for seed, name in ((0, "graft-1"), (1, "graft-1"), (0, "graft-2"))]
    assert not torch.equal(orders[0], orders[1]) and not torch.equal(orders[0], orders[2])
