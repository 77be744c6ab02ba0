"""Where a stage's targets lie in the two networks."""

import torch
from torch import Tensor, nn

from graftcli.graft.seams import seams
from graftcli.graft.stages import pieces
from graftcli.nets import plan as plans
from tests.engine import Stages, network
from tests.nets import randomise


class ClassMaps(Stages):
    """A map for each class, averaged, as in SqueezeNet and in Network in Network."""

    def __init__(self, widths: tuple[int, int, int]) -> None:
        super().__init__(widths, 2)
        self.head = nn.Conv2d(widths[-1], 5, 1)  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(x)).relu().mean((2, 3))  # type: ignore[no-any-return]


def test_features_are_the_last_maps_before_those_of_classes() -> None:
    torch.manual_seed(0)
    made = plans.make(network(randomise(ClassMaps((8, 12, 16)), seed=1), "a"), network(ClassMaps((8, 12, 10)), "b"))
    found = pieces(made, seams(made))
    assert found.last_maps is not None and [place.channels for place in found.last_maps] == [16, 10]
    assert found.shapes[-2:] == ((16, 4, 4), (5,))
    x = torch.randn(2, 3, 16, 16)
    expected = made.teacher.network.module(x)
    for piece in found.teacher:
        x = piece(x)
    torch.testing.assert_close(x, expected)


def test_of_classes_as_many_as_channels_features_are_the_last_maps() -> None:
    made = plans.make(network(Stages((8, 5, 5), 2), "a"), network(Stages((8, 5, 5), 1), "b"))
    found = pieces(made, seams(made))
    assert found.last_maps is not None and found.shapes[-2:] == ((5, 4, 4), (5,))
