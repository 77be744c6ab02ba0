"""Folding adapters into layers: the laws, over all layers that can absorb one."""

from collections.abc import Callable

import pytest
import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import Tensor, nn

from graftcli.graft.surgery.fold import into_producer, into_reader, past_batchnorm, resized
from tests.nets import randomise, same_weights

# all of them take 6 channels and give 4
LAYERS: dict[str, Callable[[], nn.Conv2d | nn.Linear]] = {
    "1x1": lambda: nn.Conv2d(6, 4, 1, bias=False),
    "with bias": lambda: nn.Conv2d(6, 4, 1),
    "zero-padded 3x3": lambda: nn.Conv2d(6, 4, 3, padding=1),
    "strided 5x3": lambda: nn.Conv2d(6, 4, (5, 3), stride=2, padding=(2, 0)),
    "dilated": lambda: nn.Conv2d(6, 4, 3, padding=2, dilation=2),
    "reflecting": lambda: nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect"),
    "same padding": lambda: Conv2dSame(6, 4, 3, stride=2),
    "linear": lambda: nn.Linear(6, 4),
    "linear without bias": lambda: nn.Linear(6, 4, bias=False),
}
NORMS: dict[str, Callable[[], nn.BatchNorm2d]] = {
    "affine": lambda: nn.BatchNorm2d(4),
    "not affine": lambda: nn.BatchNorm2d(4, affine=False),
    "wide eps": lambda: nn.BatchNorm2d(4, eps=0.5),
    "timm's": lambda: BatchNormAct2d(4, apply_act=False),
}


def drawn(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return randomise(make(), seed=3).eval().double()


def matrix(outputs: int, inputs: int) -> Tensor:
    return torch.randn(outputs, inputs, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def features(layer: nn.Module, channels: int) -> Tensor:
    """A map as the layer wants it: channels second for a convolution, last for a linear layer."""
    found = torch.randn(2, channels, 7, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    return found.movedim(1, -1) if isinstance(layer, nn.Linear) else found


def apply(adapter: Tensor, layer: nn.Module, x: Tensor) -> Tensor:
    """A(x), on the layout that the layer works on."""
    return x @ adapter.T if isinstance(layer, nn.Linear) else torch.einsum("oi,bihw->bohw", adapter, x)


def close(left: Tensor, right: Tensor) -> bool:
    return left.shape == right.shape and bool((left - right).abs().max() <= 1e-13 * right.abs().max())


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("inputs", [6, 3, 9])
@torch.no_grad()
def test_a_reader_takes_in_the_adapter_before_it(kind: str, inputs: int) -> None:
    layer, adapter = drawn(LAYERS[kind]), matrix(6, inputs)
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    x = features(layer, inputs)
    folded = into_reader(layer, adapter)
    assert type(folded) is type(layer)
    assert close(folded(x), layer(apply(adapter, layer, x)))


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("outputs", [4, 2, 7])
@torch.no_grad()
def test_a_maker_takes_in_the_adapter_after_it(kind: str, outputs: int) -> None:
    layer, adapter = drawn(LAYERS[kind]), matrix(outputs, 4)
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    x = features(layer, 6)
    folded = into_producer(layer, adapter)
    assert type(folded) is type(layer)
    assert close(folded(x), apply(adapter, layer, layer(x)))


@torch.no_grad()
def test_a_linear_layer_behind_a_flattened_map_holds_several_entries_for_each_channel() -> None:
    layer, adapter = drawn(lambda: nn.Linear(6 * 20, 4)), matrix(6, 5)
    assert isinstance(layer, nn.Linear)
    x = torch.randn(2, 5, 4, 5, dtype=torch.float64)
    assert close(into_reader(layer, adapter)(x.flatten(1)), layer(torch.einsum("oi,bihw->bohw", adapter, x).flatten(1)))


@pytest.mark.parametrize("norm_kind", NORMS)
@pytest.mark.parametrize("kind", ["1x1", "with bias", "zero-padded 3x3", "same padding"])
@pytest.mark.parametrize("outputs", [4, 7])
@torch.no_grad()
def test_an_adapter_goes_past_a_batchnorm(kind: str, norm_kind: str, outputs: int) -> None:
    maker, norm, adapter = drawn(LAYERS[kind]), drawn(NORMS[norm_kind]), matrix(outputs, 4)
    assert isinstance(maker, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    x = features(maker, 6)
    made, shift = past_batchnorm(maker, norm, adapter)
    assert type(shift) is type(norm)
    assert shift.num_features == outputs
    assert close(shift(made(x)), apply(adapter, maker, norm(maker(x))))
    assert made.state_dict().keys() == maker.state_dict().keys()  # no bias where there was none
    assert shift.state_dict().keys() == norm.state_dict().keys()


def test_a_batchnorm_without_statistics_is_refused() -> None:
    with pytest.raises(ValueError, match="without running statistics"):
        past_batchnorm(nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4, track_running_stats=False), matrix(4, 4))


def test_the_layers_that_are_given_stay_as_they_are() -> None:
    maker, norm = drawn(LAYERS["with bias"]), drawn(NORMS["affine"])
    assert isinstance(maker, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    before = [drawn(LAYERS["with bias"]), drawn(NORMS["affine"])]
    into_reader(maker, matrix(6, 2))
    into_producer(maker, matrix(3, 4))
    past_batchnorm(maker, norm, matrix(4, 4))
    assert same_weights(maker, before[0])
    assert same_weights(norm, before[1])
    assert (maker.in_channels, maker.out_channels) == (6, 4)


@torch.no_grad()
def test_float32_layers_are_folded_in_float64_and_rounded_once() -> None:
    exact = drawn(LAYERS["zero-padded 3x3"]).float()
    adapter = matrix(6, 6)
    assert isinstance(exact, nn.Conv2d)
    rounded = into_reader(exact, adapter)
    wide = drawn(LAYERS["zero-padded 3x3"]).float().double()
    assert isinstance(wide, nn.Conv2d)
    assert rounded.weight.dtype == torch.float32
    assert torch.equal(rounded.weight, into_reader(wide, adapter).weight.float())


def test_a_square_adapter_leaves_every_shape_as_it_was() -> None:
    for make in LAYERS.values():
        layer = drawn(make)
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        for folded in (into_reader(layer, matrix(6, 6)), into_producer(layer, matrix(4, 4))):
            assert {k: t.shape for k, t in folded.state_dict().items()} == {
                k: t.shape for k, t in layer.state_dict().items()
            }
            assert str(folded) == str(layer)


@pytest.mark.parametrize("make", [*LAYERS.values(), *NORMS.values()])
def test_a_resized_layer_has_room_for_the_folded_one(make: Callable[[], nn.Module]) -> None:
    layer = drawn(make)
    if isinstance(layer, nn.BatchNorm2d):
        folded: nn.Module = past_batchnorm(nn.Conv2d(6, 4, 1), layer, matrix(9, 4))[1]
        shape = torch.Size([9])
    else:
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        taken = into_reader(into_producer(layer, matrix(9, 4)), matrix(6, 2))
        folded, shape = taken, taken.weight.shape
    empty = resized(layer, shape)
    empty.load_state_dict(folded.state_dict(), strict=True)
    assert str(empty) == str(folded)
    assert same_weights(layer, drawn(make))


def test_a_layer_that_takes_no_adapter_in_is_not_resized() -> None:
    with pytest.raises(TypeError, match="LayerNorm"):
        resized(nn.LayerNorm(4), (5,))
