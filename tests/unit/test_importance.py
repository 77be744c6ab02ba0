"""How much channels matter to those that read them."""

import pytest
import torch
from torch import nn

from graftcli.graft.initialize.importance import importance
from graftcli.models.channels.groups import channels
from graftcli.models.tracing.trace import trace
from graftcli.students.channel_groups import mean_squares
from tests.nets import randomise


def test_what_nobody_reads_does_not_matter_and_shares_make_a_whole() -> None:
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
