"""Factorised convolutions: the best approximation of their rank, and exact at full rank."""

import pytest
import torch
from torch import nn

from graftcli.errors import PairError
from graftcli.models.derivation import replace_modules
from graftcli.students.factorize import _depthwise, factorize_depthwise, factorize_low_rank


def conv(outputs: int = 12, **more: int | str) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(8, outputs, 3, **more)).double()  # type: ignore[arg-type]


def test_a_low_rank_pair_misses_exactly_the_singular_values_that_it_leaves_out() -> None:
    net = conv(padding=1)
    first, second = factorize_low_rank(net, 0.5)["0"].double()
    assert isinstance(first, nn.Conv2d) and isinstance(second, nn.Conv2d)
    rank = int(0.5 * 12 * 72 / (12 + 72))
    assert first.out_channels == rank
    weight = net.get_parameter("0.weight").flatten(1)
    values = torch.linalg.svdvals(weight)
    product = second.weight.flatten(1) @ first.weight.flatten(1)
    assert torch.allclose((weight - product).square().sum(), values[rank:].square().sum(), rtol=1e-5)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_a_low_rank_pair_has_no_more_than_its_share_of_the_weights(share: float) -> None:
    row = factorize_low_rank(conv(32), share)["0"]
    assert sum(layer.get_parameter("weight").numel() for layer in row) <= share * 32 * 72


@pytest.mark.parametrize("more", [{"padding": 1}, {"stride": 2}, {"padding": 2, "dilation": 2}, {"padding": "same"}])
def test_with_as_many_pairs_as_places_decoupling_changes_nothing(more: dict[str, int | str]) -> None:
    torch.manual_seed(0)
    net = nn.Conv2d(8, 90, 3, **more).double()  # type: ignore[arg-type]
    images = torch.randn(2, 8, 12, 12, dtype=torch.float64)
    with torch.no_grad():
        whole, some, few = (_depthwise(net, pairs).double()(images) - net(images) for pairs in (9, 8, 2))
    assert float(whole.abs().max()) < 1e-5
    assert whole.std() < some.std() < few.std() < net(images).std()
    rank_one = nn.Sequential(nn.Conv2d(8, 16, 3, **more)).double()  # type: ignore[arg-type]
    with torch.no_grad():
        weight = torch.randn(16, 8, 1, 1, dtype=torch.float64) * torch.randn(1, 8, 3, 3, dtype=torch.float64)
        rank_one.get_parameter("0.weight").copy_(weight)
    exact = replace_modules(rank_one, {path: row.double() for path, row in factorize_depthwise(rank_one, 1).items()})
    assert torch.allclose(exact(images), rank_one(images), atol=1e-5)


def test_convolutions_that_would_not_become_smaller_stay() -> None:
    net = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 16, 1), nn.Conv2d(16, 16, 3))
    assert set(factorize_depthwise(net, 1)) == {"2"}
    with pytest.raises(PairError, match="no convolution"):
        factorize_depthwise(net[:2], 1)


def test_the_refusal_names_the_requested_share() -> None:
    with pytest.raises(PairError, match="decouple:9 makes"):
        factorize_depthwise(conv(), 9)
