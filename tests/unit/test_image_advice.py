"""What a teacher's predictions cover, and the advice that follows from them and from the files."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from graftcli.images.advice import advise
from graftcli.images.coverage import Coverage, Predictions
from graftcli.images.decoding import Broken
from graftcli.images.statistics import DatasetStatistics, Sizes

SIZES = Sizes((32, 32), (32, 32), (32, 32), 1, (((32, 32), 100),))
FINE = DatasetStatistics(100, (), {"PNG": 100}, {"RGB": 100}, SIZES, 0, (), (), ())
CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def covering(counts: list[int], logit: float = 20.0) -> Coverage:
    """The coverage of predictions with these counts per class."""
    predictions = Predictions()
    for index, count in enumerate(counts):
        predictions.add((torch.eye(len(counts))[index] * logit).repeat(count, 1))
    names = CIFAR if len(counts) == len(CIFAR) else None
    return predictions.coverage("net", names, trained=True)


def test_good_images_need_no_advice() -> None:
    assert advise(FINE, covering([10] * 10)) == ()
    assert advise(FINE, None) == ()


def test_two_classes_of_unequal_share_need_no_advice() -> None:
    assert advise(FINE, covering([70, 30])) == ()


def test_missing_classes_are_counted_and_named() -> None:
    summary = "the teacher predicts 3 of its 10 classes on 100 images"
    advice = advise(FINE, covering([40, 30, 30, 0, 0, 0, 0, 0, 0, 0]))
    assert advice == (f"{summary}: add images of cat, deer, dog, frog, horse, ship, truck",)


@pytest.mark.parametrize(
    ("coverage", "expected"),
    [
        (covering([91] + [1] * 9), "predicts `airplane` for 91% of the images"),
        (covering([90, 10]), "predicts `0` for 90% of the images"),
        (covering([100] + [0] * 9), "always `airplane`: add images of other classes, or, if they show several"),
        (covering([1] * 10), "predicts all 10 classes, with 1.0 images per class"),
        (covering([1, 0] * 100), "predicts 100 of its 200 classes on 100 images: there are fewer images than classes"),
        (covering([10] * 10, logit=0.1), "the teacher is unsure (median confidence 11%)"),
        (replace(covering([10] * 10), trained=False), "random weights"),
        (replace(covering([10] * 10), non_finite=3), "NaN or infinite logits for 3 of 100 images"),
    ],
)
def test_advice_on_predictions(coverage: Coverage, expected: str) -> None:
    advice = advise(FINE, coverage)
    assert any(expected in line for line in advice), advice


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"broken": (Broken("a", "torn"),)}, "1 file cannot be read and is skipped"),
        ({"exact": (("a", "b", "c"),)}, "2 images are an exact copy of another"),
        ({"near": (("a", "b"),)}, "1 image is a near copy of another"),
        ({"plain": ("a", "b")}, "2 images are of a single colour"),
        ({"enlarged": 60}, "60 of 100 images are smaller"),
        ({"images": 3}, "3 images are few"),
    ],
)
def test_advice_on_files(change: dict[str, Any], expected: str) -> None:
    advice = advise(replace(FINE, **change), None)
    assert len(advice) == 1 and expected in advice[0]


def test_a_few_small_images_among_many_need_no_advice() -> None:
    assert advise(replace(FINE, enlarged=5), None) == ()


def test_answers_are_added_up_over_batches() -> None:
    answers = Predictions()
    answers.add(torch.tensor([[9.0, 0, 0, 0], [0, 9.0, 0, 0]]))
    answers.add(torch.tensor([[9.0, 0, 0, 0], [0.1, 0, 0, 0]]))
    found = answers.coverage("net", ["cat", "dog", "cow", "hen"], trained=True)
    assert (found.images, found.classes, found.covered, found.unsure) == (4, 4, 2, 1)
    assert [(share.name, share.images, share.share) for share in found.dominant] == [("cat", 3, 0.75), ("dog", 1, 0.25)]
    assert found.missing == ("cow", "hen")
    assert 0.99 < found.confidence < 1 and found.confidence_low < 0.8


def test_classes_without_names_are_called_by_their_index() -> None:
    answers = Predictions()
    answers.add(torch.eye(3)[:1] * 9)
    assert answers.coverage("net", None, trained=True).missing == ("1", "2")


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_answers_that_are_no_numbers_are_counted_apart(odd: float) -> None:
    answers = Predictions()
    answers.add(torch.tensor([[odd, 0.0], [0.0, 5.0]]))
    found = answers.coverage("net", None, trained=True)
    assert (found.images, found.non_finite, found.covered) == (2, 1, 1)
    alone = Predictions()
    alone.add(torch.tensor([[odd, 0.0]]))
    assert alone.coverage("net", None, trained=True).covered == 0
