"""Residual units that become identities."""

import pytest
import torch
from torch import Tensor, nn

from graftcli.errors import PairError
from graftcli.models.derivation import replace_modules
from graftcli.models.tracing.trace import Traced, trace
from graftcli.students.drop_units import check_units, droppable_units, innermost_units, least_important_units
from tests.nets import randomise, resnet

IMAGES = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def traced() -> Traced:
    torch.manual_seed(0)
    return trace(randomise(resnet(depth=20)).eval(), IMAGES[:2])


def test_residual_units_that_keep_their_shape_can_be_dropped(traced: Traced) -> None:
    names = [unit.path for unit in innermost_units(droppable_units(traced))]
    assert names == [f"layer{i}.{j}" for i, first in ((1, 0), (2, 1), (3, 1)) for j in range(first, 3)]


def test_dropping_a_unit_equals_replacing_it_by_the_identity(traced: Traced) -> None:
    teacher = traced.module
    student = replace_modules(
        teacher, {name: nn.Sequential() for name in check_units(traced, ["layer2.1", "layer3.2"])}
    )
    skipped = [teacher.get_submodule(name) for name in ("layer2.1", "layer3.2")]
    handles = [unit.register_forward_hook(lambda _, given, made: given[0]) for unit in skipped]
    expected = teacher(IMAGES)
    for handle in handles:
        handle.remove()
    assert torch.equal(student(IMAGES), expected)
    assert not torch.equal(student(IMAGES), teacher(IMAGES))


def test_units_that_cannot_be_dropped_are_all_refused_at_once(traced: Traced) -> None:
    with pytest.raises(PairError) as refused:
        check_units(traced, ["layer2.0", "layer1.1.conv1", "nowhere", "layer1.2"])
    found = refused.value.message
    assert "`layer2.0` changes the shape from 16x16x16 to 32x8x8" in found
    assert "`layer1.1.conv1` is not a residual unit" in found and "`nowhere` is not in the network" in found
    assert "layer1.2" not in found and "layer3.1, layer3.2" in refused.value.fix


def test_a_unit_inside_a_dropped_one_goes_with_it(traced: Traced) -> None:
    assert check_units(traced, ["layer1.0", "layer1"]) == ["layer1"]


def test_an_identity_unit_is_ranked_least_important(traced: Traced) -> None:
    lame = trace(replace_modules(traced.module, {}), IMAGES[:2])
    with torch.no_grad():
        lame.module.get_parameter("layer3.1.bn2.weight").zero_()
        lame.module.get_parameter("layer3.1.bn2.bias").zero_()
    assert least_important_units(lame, 1, IMAGES) == ["layer3.1"]
    assert "layer3.1" in least_important_units(lame, 3, IMAGES)


class Added(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = x + self.inner(x)
        return added


class ChannelsLast(nn.Module):
    """Two residual units on tokens, or on maps with their channels last, of which the first is a 1x1."""

    def __init__(self, flat: bool) -> None:
        super().__init__()
        self.flat, self.stem, self.head = flat, nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 5)
        bent = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8))
        self.units = nn.Sequential(Added(nn.Linear(8, 8, bias=False)), Added(bent))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        x = self.units(x.flatten(1, 2) if self.flat else x)
        scores: Tensor = self.head(x.mean((1,) if self.flat else (1, 2)))
        return scores


@pytest.mark.parametrize("flat", [True, False])
def test_the_1x1_in_a_units_place_is_over_its_channels_wherever_they_are(flat: bool) -> None:
    """So a unit that is a 1x1 itself is missed the least, however much it does."""
    torch.manual_seed(0)
    network = ChannelsLast(flat).eval()
    with torch.no_grad():
        network.get_parameter("units.0.inner.weight").mul_(8)
        network.get_parameter("units.1.inner.2.weight").mul_(3)
    assert least_important_units(trace(network, IMAGES[:2]), 1, IMAGES) == ["units.0"]


def test_more_than_there_are_is_refused(traced: Traced) -> None:
    with pytest.raises(PairError, match="7 residual units"):
        least_important_units(traced, 8, IMAGES)
