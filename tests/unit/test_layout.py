"""Maps lie channels last where the networks allow it, and as they were where one does not."""

import pytest
import torch
from torch import Tensor, nn

from graftcli.graft.backend.memory_format import set_channels_last_pieces
from graftcli.graft.surgery.seams import seams
from graftcli.graft.training.tasks import Pieces, pieces
from graftcli.models.cuts import plan as plans
from tests.engine import Stages, network, plan
from tests.nets import randomise


class Viewing(Stages):
    """A head that reads the maps by `view`, as many networks written by hand do."""

    def __init__(self) -> None:
        super().__init__((6, 8, 16), 2)
        self.head = nn.Linear(16 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.stages(x)
        return self.head(maps.view(maps.shape[0], -1))  # type: ignore[no-any-return]


def convolutions(found: Pieces) -> list[nn.Conv2d]:
    every = (*found.teacher, *found.student)
    return [m for piece in every for m in piece.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]


def test_convolutions_are_channels_last_and_answer_as_before() -> None:
    made = plan()
    images = torch.randn(2, 3, 16, 16)
    before = made.student.network.module(images)
    found = pieces(made, seams(made))
    set_channels_last_pieces(found, images)
    weights = [conv.weight for conv in convolutions(found)]
    assert weights and all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)
    assert torch.allclose(made.student.network.module(images), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", ["teacher", "student"])
def test_a_network_that_views_its_maps_keeps_the_plain_layout(side: str) -> None:
    other, viewing = network(Stages((8, 12, 16), 3), "other"), network(randomise(Viewing()), "viewing")
    made = plans.make(*((viewing, other) if side == "teacher" else (other, viewing)))
    found = pieces(made, seams(made))
    set_channels_last_pieces(found, torch.randn(2, 3, 16, 16))
    assert all(conv.weight.is_contiguous() for conv in convolutions(found))
    made.student.network.module(torch.randn(2, 3, 16, 16))
