"""Advice is given where there is something to do, and names it."""

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
    """Answers with so many images a class."""
    answers = Predictions()
    for index, count in enumerate(counts):
        answers.add((torch.eye(len(counts))[index] * logit).repeat(count, 1))
    names = CIFAR if len(counts) == len(CIFAR) else None
    return answers.coverage("net", names, trained=True)


def test_good_images_need_no_advice() -> None:
    assert advise(FINE, covering([10] * 10)) == ()
    assert advise(FINE, None) == ()


def test_two_classes_of_unequal_share_are_no_matter() -> None:
    assert advise(FINE, covering([70, 30])) == ()


def test_missing_classes_are_counted_and_named() -> None:
    told = advise(FINE, covering([40, 30, 30, 0, 0, 0, 0, 0, 0, 0]))
    assert told == ("your 100 images cover 3 of 10 classes: add images of cat, deer, dog, frog, horse, ship, truck",)


@pytest.mark.parametrize(
    ("coverage", "said"),
    [
        (covering([91] + [1] * 9), "91% of the images are `airplane`"),
        (covering([90, 10]), "90% of the images are `0`"),
        (covering([100] + [0] * 9), "the teacher sees them wrong"),
        (covering([1] * 10), "all 10 classes are covered, with 1.0 images a class"),
        (covering([1, 0] * 100), "your 100 images cover 100 of 200 classes: with fewer images than classes"),
        (covering([10] * 10, logit=0.1), "the teacher is unsure (median confidence 11%)"),
        (replace(covering([10] * 10), trained=False), "random weights"),
        (replace(covering([10] * 10), broken_answers=3), "3 of 100 images with NaN"),
    ],
)
def test_what_the_teacher_sees(coverage: Coverage, said: str) -> None:
    told = advise(FINE, coverage)
    assert any(said in one for one in told), told


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"broken": (Broken("a", "torn"),)}, "1 file cannot be read and is left out"),
        ({"exact": (("a", "b", "c"),)}, "2 images are a copy of another"),
        ({"near": (("a", "b"),)}, "1 image is nearly another one"),
        ({"plain": ("a", "b")}, "2 images are of one shade"),
        ({"enlarged": 60}, "60 of 100 images are smaller"),
        ({"images": 3}, "3 images are few"),
    ],
)
def test_what_the_files_are(change: dict[str, Any], said: str) -> None:
    told = advise(replace(FINE, **change), None)
    assert len(told) == 1 and said in told[0]


def test_a_few_small_images_among_many_are_no_matter() -> None:
    assert advise(replace(FINE, enlarged=5), None) == ()
