"""How many views there are, and which images they are of."""

import pytest

from graftcli.graft.looks import divide, looks
from graftcli.graft.stages import tasks
from graftcli.recipe import scaled
from graftcli.recipe.values import Augment
from tests.engine import images, recipe


@pytest.mark.parametrize(
    ("limits", "each"),
    [
        ({"total": 30}, 3),  # 12 images share them evenly
        ({"total": 5}, 1),
        ({"total": 30, "count": 9}, 9),  # what is said of each image goes before
        ({"count": 2}, 2),
        ({"total": 10**6}, 20),  # never more than there are steps to see them
    ],
)
def test_images_share_a_total_of_views(limits: dict[str, int], each: int) -> None:
    whole = scaled(recipe(views=limits), 10)  # 60 steps of 4 views
    assert looks(whole, tasks(whole, 3, (1, 2, 3)), 12) == {Augment(): each}


@pytest.mark.parametrize(("count", "held"), [(12, 0), (39, 0), (40, 8), (200, 20)])
def test_a_tenth_is_held_out_where_there_are_enough(count: int, held: int) -> None:
    pixels = images(count)
    train, measured = divide(pixels, None, seed=3)
    assert (len(train), len(measured)) == (count - held, held)
    assert {one.numpy().tobytes() for one in (*train, *measured)} == {one.numpy().tobytes() for one in pixels.pixels}
    assert len(divide(pixels, images(5), seed=3)[0]) == count
