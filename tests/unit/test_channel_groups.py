"""Groups of channels that belong together."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graftcli.models.channels.groups import IMAGES, ChannelGroups, channels
from graftcli.models.tracing.trace import trace


class Mixed(nn.Module):
    """Two maps beside each other, of which one is added to, pooled and laid flat; and a step that nobody follows."""

    def __init__(self, blind: bool) -> None:
        super().__init__()
        self.one, self.other, self.added = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1)
        self.norm = nn.BatchNorm2d(5)
        self.head = nn.Linear(20, 4)
        self.blind = blind

    def forward(self, x: Tensor) -> Tensor:
        both = self.norm(torch.cat([self.other(x), self.one(x) + self.added(x)], 1))
        if self.blind:
            both = torch.cumsum(both, 1)[:, :, :2, :2] @ torch.ones(2, 2)
        logits: Tensor = self.head(F.adaptive_max_pool2d(both.relu(), 2).flatten(1))
        return logits


def of(module: nn.Module) -> ChannelGroups:
    return channels(trace(module.eval(), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))))


def test_a_reader_behind_a_concatenation_reads_who_made_it() -> None:
    found = of(Mixed(blind=False))
    assert found.reads["one"] == found.gives[IMAGES]
    assert found.gives["norm"] == (*found.gives["other"], *found.gives["one"])
    assert found.lost == frozenset()


def test_added_channels_are_one_group() -> None:
    found = of(Mixed(blind=False))
    assert found.gives["one"] == found.gives["added"]
    assert set(found.gives["one"]).isdisjoint(found.gives["other"])


def test_a_flattened_channel_is_read_at_each_of_its_places() -> None:
    found = of(Mixed(blind=False))
    assert found.reads["head"] == tuple(name for name in found.gives["norm"] for _ in range(4))


def test_after_an_unknown_operation_channels_are_in_no_group() -> None:
    found = of(Mixed(blind=True))
    assert set(found.reads["head"]) == {0}
    assert found.lost == frozenset(found.gives["norm"])


def test_padded_zeros_are_in_no_group() -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 2, 1), nn.Conv2d(4, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            padded = F.pad(self.first(x), (1, 1, 1, 1, 1, 1), value=3.0)
            logits: Tensor = self.second(padded).mean((2, 3))
            return logits

    found = of(Padded())
    assert found.reads["second"] == (0, *found.gives["first"], 0)


def test_a_layer_that_runs_twice_reads_the_same_channels_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.shared = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.shared(self.shared(self.first(x)).relu()).mean((2, 3))
            return logits

    found = of(Twice())
    assert found.reads["shared"] == found.gives["first"] == found.gives["shared"]
