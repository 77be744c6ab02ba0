"""The importance of channels, and which channels of the teacher a student inherits."""

import pytest
import torch
from torch import nn

from graftcli.graft.initialize.channel_matching import even, fill_unmatched, match_channels
from graftcli.graft.initialize.importance import importance
from graftcli.models.channel_selection import ChannelSelection
from graftcli.models.channels.groups import IMAGES, ChannelGroups, channels
from graftcli.models.tracing.trace import trace
from graftcli.students.channel_groups import mean_squares
from tests.nets import randomise

LAYERS = {"a": "a", "b": "b"}


def chain(width: int, lost: bool = False) -> ChannelGroups:
    """Layer `b` reads what `a` makes of the images."""
    inner = tuple(range(2, 2 + width))
    out = (2 + width,)
    return ChannelGroups({IMAGES: (1,), "a": inner, "b": out}, {"a": (1,), "b": inner}, {}, {}, frozenset(inner * lost))


def test_a_reader_keeps_the_channels_that_its_producer_keeps() -> None:
    found = match_channels(chain(4), chain(2), LAYERS, {2: 0.1, 3: 0.4, 4: 0.2, 5: 0.3})
    assert found == (ChannelSelection("a", "a", (1, 3), (0,)), ChannelSelection("b", "b", (0,), (1, 3)))


def test_among_equals_the_first_stay() -> None:
    assert match_channels(chain(4), chain(2), LAYERS, {})[0].outputs == (0, 1)


def test_channels_that_also_reach_unknown_readers_are_the_first_ones() -> None:
    found = match_channels(chain(4, lost=True), chain(2), LAYERS, {2: 0.1, 3: 0.4, 4: 0.2, 5: 0.3})
    assert found[0].outputs == found[1].inputs == (0, 1)


def test_a_wider_student_is_given_nothing_there() -> None:
    assert match_channels(chain(2), chain(4), LAYERS, {}) == ()


def test_unknown_channels_are_the_first_ones_left() -> None:
    assert fill_unmatched([None, 0, None, 3], 5) == (1, 0, 2, 3)


def test_units_lie_at_even_distance() -> None:
    assert [even(i, 3, 9) for i in range(3)] == [0, 4, 8]
    assert even(0, 1, 4) == 0


def test_unread_channels_have_no_importance_and_shares_add_up_to_one() -> None:
    module = randomise(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3, groups=2), nn.Flatten()))
    module.append(nn.Linear(8 * 16, 5)).eval()
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    module.get_parameter("2.weight").data[:4, 1] = 0.0  # the first group's readers of channel 1
    names = channels(trace(module, images[:2]))
    found = importance(names, module, images)
    shares = [found[name] for name in names.gives["0"]]
    assert shares[1] == 0.0 and min(shares[:1] + shares[2:]) > 0.0
    assert abs(sum(shares) - 1.0) < 1e-9


def test_each_image_counts_alike_however_many_there_are() -> None:
    images = torch.zeros(18, 3, 2, 2)
    images[:16, 0], images[16:, 1] = 1.0, 2.0
    ((_, squares),) = mean_squares(nn.Sequential(nn.Conv2d(3, 4, 1)), images)
    assert squares.tolist() == pytest.approx([16 / 18, 8 / 18, 0.0])


def test_what_is_dead_on_the_images_does_not_matter() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(16, 5)).eval()
    module.get_parameter("0.bias").data[2] = -100.0
    images = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    names = channels(trace(module, images[:2]))
    assert importance(names, module, images)[names.gives["0"][2]] == 0.0
