"""What a teacher's answers say of images."""

import pytest
import torch

from graftcli.images.coverage import Predictions


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
    assert (found.images, found.broken_answers, found.covered) == (2, 1, 1)
    alone = Predictions()
    alone.add(torch.tensor([[odd, 0.0]]))
    assert alone.coverage("net", None, trained=True).covered == 0
