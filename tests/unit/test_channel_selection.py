"""The channels that a derived student keeps of its teacher, as numbers and as text."""

import json

import pytest
import torch
from torch import nn

from graftcli.models.channel_selection import (
    ChannelSelection,
    as_facts,
    channel_counts,
    from_facts,
    narrow,
    selected_tensor,
)
from tests.nets import randomise


def row() -> nn.Sequential:
    layers = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 4, 1))
    return randomise(layers).eval()


KEPT = (
    ChannelSelection("0", "0", (0, 2, 3), (0, 1, 2)),
    ChannelSelection("1", "1", (0, 2, 3), (0, 2, 3)),
    ChannelSelection("2", "2", (0, 2, 3), (0, 2, 3)),
    ChannelSelection("3", "3", (0, 1, 2, 3), (0, 2, 3)),
)


def test_every_layer_holds_the_teachers_numbers_at_the_kept_channels_and_the_teacher_stays() -> None:
    teacher = row()
    student = narrow(teacher, KEPT)
    assert [channel_counts(layer) for layer in student.children()] == [(3, 3), (3, 3), (3, 3), (4, 3)]
    assert [channel_counts(layer) for layer in teacher.children()] == [(6, 3), (6, 6), (6, 6), (4, 6)]
    for kept in KEPT:
        teacher_module, student_module = teacher.get_submodule(kept.teacher_layer), student.get_submodule(kept.layer)
        for name, tensor in student_module.state_dict().items():
            assert torch.equal(
                tensor, selected_tensor(name, teacher_module.state_dict()[name], teacher_module, kept)
            ), (kept.layer, name)
    assert torch.equal(student.get_parameter("0.weight"), teacher.get_parameter("0.weight")[[0, 2, 3]])


def test_a_narrowed_network_equals_the_full_one_with_removed_channels_zeroed() -> None:
    teacher, images = row(), torch.randn(2, 3, 8, 8)
    student = narrow(teacher, KEPT)
    last = teacher.get_parameter("3.weight")
    with torch.no_grad():
        last[:, [1, 4, 5]] = 0
        assert torch.allclose(student(images), teacher(images), atol=1e-6)


def test_per_channel_parameters_outside_of_layers_are_narrowed_too() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gamma = nn.Parameter(torch.arange(4.0).view(4, 1, 1))

    made = narrow(Scaled(), [ChannelSelection("gamma", "gamma", (1, 3), (1, 3))])
    assert torch.equal(made.get_parameter("gamma").flatten(), torch.tensor([1.0, 3.0]))


@pytest.mark.parametrize(("indices", "text"), [((), ""), ((3,), "3"), ((0, 1, 2, 5), "0-2,5"), ((1, 3, 4), "1,3-4")])
def test_indices_are_short_in_json_and_come_back(indices: tuple[int, ...], text: str) -> None:
    kept = (ChannelSelection("a.b", "c", indices, indices, exact=False),)
    facts = json.loads(json.dumps(as_facts(kept)))
    assert facts[0]["outputs"] == text
    assert from_facts(facts) == kept
