"""How an image becomes a view, as a recipe says it."""

from typing import Any

import pytest
from pydantic import ValidationError

from graftcli.recipe.values import Augment, Mix, Paste, ResizedCrop, ViewSettings, item_values


def test_nothing_is_done_to_an_image_unless_it_is_said() -> None:
    assert ViewSettings().count is None
    assert ViewSettings().augment == Augment()
    assert Augment().model_dump(exclude_none=True) == {"flip": False}


def test_every_view_may_be_blended_and_pasted_on() -> None:
    both = Augment(mixup=Mix(share=1.0), cutmix=Paste(share=1.0, shape="blobs"))
    assert both.mixup == Mix(share=1.0, alpha=1.0) and both.cutmix == Paste(share=1.0, alpha=1.0, shape="blobs")
    with pytest.raises(ValidationError, match="blob"):
        Augment.model_validate({"cutmix": {"share": 1.0, "shape": "blob"}})
    with pytest.raises(ValidationError, match="shape"):
        Augment.model_validate({"mixup": {"share": 1.0, "shape": "blobs"}})


@pytest.mark.parametrize("scale", [(0.5, 0.2), (0.0, 1.0), (0.5, 1.5), (0.5,), (0.2, 0.3, 0.4), 0.5, "all"])
def test_a_crop_is_a_rising_share_of_the_area(scale: Any) -> None:
    with pytest.raises(ValidationError):
        ResizedCrop.model_validate({"scale": scale})


def test_an_aspect_ratio_may_be_above_one() -> None:
    assert ResizedCrop.model_validate({"scale": [0.5, 1], "ratio": [1, 2]}).ratio == (1.0, 2.0)


@pytest.mark.parametrize(
    ("value", "found"),
    [([{"at": 1}, {}, 7], [1, None, None]), ((Mix(share=1),), [None]), ("text", []), (None, []), ({"at": 1}, [])],
)
def test_items_are_asked_before_anybody_knows_what_they_are(value: Any, found: list[Any]) -> None:
    assert item_values(value, "at") == found
