"""How many views and synthetic images a run has, and which images are held out."""

import pytest

from graftcli.graft.data.held_out import split_images
from graftcli.graft.schedule import schedule_of
from graftcli.recipe import scaled
from graftcli.recipe.file import load
from graftcli.recipe.values import Augment
from tests.engine import images, recipe


@pytest.mark.parametrize(
    ("limits", "each"),
    [
        ({"total": 30}, 3),  # 12 images share them evenly
        ({"total": 5}, 1),
        ({"total": 30, "count": 9}, 9),  # the count per image takes precedence
        ({"count": 2}, 2),
        ({"total": 10**6}, 20),  # never more than there are steps to see them
    ],
)
def test_images_share_a_total_of_views(limits: dict[str, int], each: int) -> None:
    whole = scaled(recipe(views=limits), 10)  # 60 steps of 4 views
    assert schedule_of(whole, 12, 3).views == {Augment(): each}


@pytest.mark.parametrize(
    ("there", "steps", "made"),
    [(10, 4500, 590), (100, 4500, 500), (600, 4500, 0), (5000, 4500, 0), (10, 9000, 590), (10, 313, 50), (10, 187, 0)],
)
def test_as_many_are_made_as_are_missing_and_fewer_or_none_for_a_short_run(there: int, steps: int, made: int) -> None:
    settings = ("views.synthetic={images: 600, steps: 40}", "stages.graft.steps=1", f"stages.finish.steps={steps}")
    wanted = load("graft", settings)
    assert schedule_of(wanted, there, 3).synthetic == made
    without = load("graft", ("views.synthetic=null", *settings[1:]))
    assert schedule_of(without, there, 3).synthetic == 0


@pytest.mark.parametrize(
    ("below", "there", "made"), [(80, 79, 521), (80, 80, 0), (80, 100, 0), ("null", 100, 500), (1000, 900, 0)]
)
def test_none_are_made_where_there_are_enough(below: int | str, there: int, made: int) -> None:
    wanted = load("graft", (f"views.synthetic={{images: 600, below: {below}}}",))
    assert schedule_of(wanted, there, 3).synthetic == made


@pytest.mark.parametrize(("count", "held"), [(12, 0), (39, 0), (40, 8), (200, 20)])
def test_a_tenth_is_held_out_where_there_are_enough(count: int, held: int) -> None:
    pixels = images(count)
    train, measured = split_images(pixels, None, seed=3)
    assert (len(train), len(measured)) == (count - held, held)
    assert {one.numpy().tobytes() for one in (*train, *measured)} == {one.numpy().tobytes() for one in pixels.pixels}
    assert len(split_images(pixels, images(5), seed=3)[0]) == count
