"""Where a stage's targets lie in the two networks."""

import torch
from torch import Tensor, nn

from graftcli.graft.surgery.seams import seams
from graftcli.graft.training.pieces import pieces
from graftcli.models.cuts import plan as plans
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


def test_where_one_network_has_no_maps_but_those_of_classes_both_are_met_there() -> None:
    """Behind the other's last cut there is nothing before its maps of classes."""

    class Short(ClassMaps):
        def __init__(self) -> None:
            super().__init__((8, 12, 16))
            self.stages[2] = nn.Identity()
            self.head = nn.Conv2d(12, 5, 3, 2, 1)  # type: ignore[assignment]

    for pair in ((Short(), ClassMaps((8, 12, 16))), (ClassMaps((8, 12, 16)), Short())):
        made = plans.make(network(pair[0], "a"), network(pair[1], "b"))
        last = pieces(made, seams(made)).last_maps
        assert last is not None and [place.channels for place in last] == [5, 5]


def test_maps_that_happen_to_be_as_many_as_classes_are_features() -> None:
    class Wider(Stages):
        """The last layer before the head gives as many channels as there are classes."""

        def __init__(self) -> None:
            super().__init__((8, 12, 16), 1)
            self.last, self.head = nn.Conv2d(16, 5, 1), nn.Linear(5, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.last(self.stages(x)).relu().mean((2, 3)))  # type: ignore[no-any-return]

    made = plans.make(network(Wider(), "a"), network(Wider(), "b"))
    last = pieces(made, seams(made)).last_maps
    assert last is not None and [place.channels for place in last] == [5, 5]
