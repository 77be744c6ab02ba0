"""Scores and their intervals."""

import pytest
import torch

from graftcli.measure import Accuracy, accuracy, agreement, wilson_interval
from graftcli.models.loading.build import build
from graftcli.models.loading.in_memory import spec_of
from graftcli.runs.scoring import ScoredModel, at_chance
from tests.nets import resnet


def test_wilsons_interval_as_in_the_tables() -> None:
    found = wilson_interval(9, 10)
    assert (found.share, found.low, found.high) == pytest.approx((0.9, 0.5958, 0.9821), abs=1e-4)
    assert wilson_interval(0, 20).low == 0 and 0.1 < wilson_interval(0, 20).high < 0.2
    assert wilson_interval(20, 20).high == 1


def test_top_one_and_top_five() -> None:
    answers = torch.tensor([[6.0, 5, 4, 3, 2, 1], [1.0, 2, 3, 4, 5, 6]])
    found = accuracy(answers, torch.tensor([0, 0]))
    assert found.top1.share == 0.5
    assert found.top5 is not None and found.top5.share == 0.5
    assert accuracy(answers[:, :3], torch.tensor([0, 2])).top5 is None


def test_agreement_compares_top1_and_kl_all_classes() -> None:
    teacher = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
    same, shifted = agreement(teacher, teacher), agreement(teacher + 5, teacher)
    assert same.agreement.share == shifted.agreement.share == 1
    assert same.kl == pytest.approx(0, abs=1e-7)
    assert shifted.kl == pytest.approx(0, abs=1e-6)
    other = agreement(teacher.flip(1), teacher)
    assert other.agreement.share == 0 and other.kl > 0.1


@pytest.mark.parametrize(
    ("hits", "images", "hinted"), [(0, 100, True), (10, 100, True), (15, 100, True), (30, 100, False), (1, 99, False)]
)
def test_a_score_at_chance_gives_a_hint(hits: int, images: int, hinted: bool) -> None:
    top1 = wilson_interval(hits, images)
    scored = ScoredModel("net", "memory", 1, Accuracy(images, top1, None), None)
    hints = list(at_chance(scored, build(spec_of(resnet(8)))))
    assert bool(hints) == hinted
    if hinted:
        assert f"of {images} images, with 10 classes" in hints[0] and "--mean and --std" in hints[0]
    assert not list(at_chance(scored, build("tests.nets:resnet")))  # random weights, of which another warning tells
