"""Automatic cuts: where exactly one activation is alive, its layout, and which of these places is chosen."""

from itertools import pairwise
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from graftcli.models.cuts.automatic_cuts import (
    cuts,
    equal_shares,
    equal_work_cuts,
    macs_before,
    positions_beside,
    shrinks,
)
from graftcli.models.cuts.positions import Position, positions
from graftcli.models.tracing.trace import Traced, trace
from tests.nets import resnet


def traced(network: nn.Module, *size: int) -> Traced:
    return trace(network, torch.randn(2, *(size or (3, 64, 64)), generator=torch.Generator().manual_seed(0)))


def of_timm(name: str, *size: int, **kwargs: object) -> Traced:
    return traced(timm.create_model(name, num_classes=10, **kwargs), *size)


def names(places: list[Position]) -> list[str]:
    return [place.name for place in places]


# ---- where one tensor alone is alive ----


def test_a_residual_block_is_left_and_entered_only_at_its_ends() -> None:
    found = names(positions(traced(resnet(20), 3, 32, 32)))
    assert {"conv1", "bn1", "layer1.0", "layer1.1", "layer1", "layer2.0", "layer3"} <= set(found)
    assert "layer2.0.add" in found, "behind the addition one tensor is left"
    assert not [name for name in found if name.endswith(("conv1", "bn1", "conv2", "bn2")) and name.startswith("layer")]
    assert found.index("layer1") < found.index("layer2") < found.index("layer3")


def test_parallel_branches_allow_no_cut() -> None:
    found = of_timm("hrnet_w18_small")
    places = positions(found)
    assert "layer1" in names(places)
    assert not [name for name in names(places) if name.startswith(("stage2", "stage3", "transition1.1"))]
    assert not positions(traced(Crossing()))


class Crossing(nn.Module):
    """Two branches from the first layer to the last."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(3, 8, 3, 2, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Any:
        return self.head(torch.cat([self.a(x).mean((2, 3)), self.b(x).mean((2, 3))], 1))


def test_reading_a_shape_keeps_no_tensor_alive() -> None:
    class Asking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)
            self.head = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Any:
            y = self.conv(x)
            z = self.norm(y)
            return self.head((z.reshape(y.shape[0], 8, -1) / y.shape[3]).mean(2))

    assert names(positions(traced(Asking()))) == ["conv", "norm"]


def test_a_tensor_computed_from_weights_alone_does_not_count_as_alive() -> None:
    found = of_timm("test_vit", img_size=64)
    assert "blocks.0" in names(positions(found)), "the position embedding is made again where it is needed"


def test_a_number_read_from_the_images_counts_as_alive() -> None:
    class Scaling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Any:
            y = self.conv1(x)
            most = y.abs().max().item()
            return self.head(self.conv2(y).mean((2, 3)) / most)

    assert names(positions(traced(Scaling()))) == ["conv1"]


# ---- layouts ----


@pytest.mark.parametrize(
    ("name", "kwargs", "at", "layout", "size", "channels", "prefix"),
    [
        ("resnet10t", {}, "layer2", "NCHW", (8, 8), 128, 0),
        ("swin_tiny_patch4_window7_224", {"img_size": 64}, "layers.0", "NHWC", (16, 16), 96, 0),
        ("test_vit", {"img_size": 64}, "blocks.0", "tokens", (4, 4), 64, 1),
        ("mixer_s32_224", {"img_size": 64}, "blocks.0", "tokens", (2, 2), 512, 0),
        ("twins_svt_small", {}, "blocks.1.1", "tokens", (8, 8), 128, 0),
    ],
)
def test_the_layout_is_inferred_from_shapes(
    name: str, kwargs: dict[str, Any], at: str, layout: str, size: tuple[int, int], channels: int, prefix: int
) -> None:
    place = next(place for place in positions(of_timm(name, **kwargs)) if place.name == at)
    assert (place.layout, place.size, place.channels, place.prefix) == (layout, size, channels, prefix)


@pytest.mark.parametrize("last", [True, False])
def test_the_channels_of_a_cube_are_known_from_the_layers_beside_it(last: bool) -> None:
    class Cube(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.act, self.head = nn.Conv2d(3, 8, 3, 8, 1), nn.ReLU(), nn.Linear(8, 5)
            self.mix = nn.Linear(8, 8) if last else nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Any:
            y = self.stem(x).permute(0, 2, 3, 1) if last else self.stem(x)
            return self.head(self.act(self.mix(self.act(y))).mean((1, 2) if last else (2, 3)))

    acts = [place for place in positions(traced(Cube())) if place.name == "act"]
    assert [place.shape for place in acts] == [(8, 8, 8)] * 2
    assert {place.layout for place in acts} == {"NHWC" if last else "NCHW"}


def test_a_transposed_map_is_not_taken_for_tokens() -> None:
    """16 tokens of 256 channels: 256 would be a map of 16x16 too."""
    places = positions(of_timm("twins_svt_small"))
    assert {place.size for place in places if place.name.startswith(("pos_block.2", "patch_embeds.2"))} == {(4, 4)}


def test_a_rectangular_image_has_rectangular_maps() -> None:
    assert [place.size for place in cuts(of_timm("resnet10t", 3, 96, 160))] == [(24, 40), (12, 20), (6, 10)]
    tokens = positions(of_timm("test_vit", 3, 96, 160, img_size=(96, 160)))
    assert {place.size for place in tokens if place.layout == "tokens"} == {(6, 10)}


# ---- the cuts that are taken ----


@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_the_papers_cuts(name: str) -> None:
    found = cuts(traced(torchvision.models.get_model(name), 3, 224, 224))
    assert [(place.name, place.shape) for place in found] == [
        ("layer1", (64, 56, 56)),
        ("layer2", (128, 28, 28)),
        ("layer3", (256, 14, 14)),
    ]


def test_a_stem_that_only_shrinks_the_image_is_no_block() -> None:
    found = traced(torchvision.models.resnet18())
    assert [(shrink.before[-1].size, shrink.stage) for shrink in shrinks(found)] == [
        ((32, 32), False),
        ((16, 16), True),
        ((8, 8), True),
        ((4, 4), True),
    ]


def test_small_images_are_cut_at_each_stage() -> None:
    found = cuts(traced(resnet(20), 3, 32, 32))
    assert names(found) == ["layer1", "layer2"]


def test_a_cut_stands_behind_a_max_pool_and_before_a_strided_convolution() -> None:
    pools = cuts(traced(torchvision.models.vgg11_bn(num_classes=10)))
    assert pools and all(type(place.traced.module_of(place.node)) is nn.MaxPool2d for place in pools[-2:])
    strides = cuts(of_timm("mobilenetv3_large_100"))
    assert names(strides) == ["blocks.1", "blocks.2", "blocks.4"]


def test_a_place_that_folds_is_preferred_to_one_that_does_not() -> None:
    for name in ("resnet18", "mobilenet_v2", "squeezenet1_1", "densenet121", "efficientnet_b0"):
        found = cuts(traced(torchvision.models.get_model(name, num_classes=10)))
        assert found and all(place.foldable for place in found), name


def test_the_ends_of_modules_are_preferred_among_equals() -> None:
    for name in ("resnet26", "twins_svt_small", "convnext_atto", "mobilevit_xxs", "regnety_002"):
        found = of_timm(name)
        assert all(place.node in found.ends for place in cuts(found)), name


def test_declared_strides_are_not_trusted() -> None:
    class Lying(nn.Module):
        """Two stages of one size, and one that shrinks without a stride."""

        def __init__(self) -> None:
            super().__init__()
            self.layer1 = nn.Conv2d(3, 8, 3, 1, 1)
            self.layer2 = nn.Sequential(nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1))
            self.layer3 = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(32, 16, 3, 1, 1), nn.ReLU())
            self.head = nn.Linear(16, 5)
            self.stride = 4

        def forward(self, x: Tensor) -> Any:
            return self.head(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))

    found = shrinks(traced(Lying()))
    assert [(s.before[-1].size, s.after[0].size) for s in found] == [((64, 64), (32, 32))]


def test_the_last_pooling_is_no_cut() -> None:
    for name in ("resnet18", "vgg11", "mobilenet_v3_small", "densenet121"):
        found = cuts(traced(torchvision.models.get_model(name, num_classes=10)))
        assert min(place.size for place in found) >= (2, 2), name


def test_beside_a_shrinking_layer_the_nearest_places_are_always_offered() -> None:
    """A bottleneck that pools at its end: many layers lie between it and the place before."""
    found = of_timm("resnest14d")
    assert names(cuts(found)) == ["layer1", "layer2", "layer3"]
    assert all(positions_beside(shrink) for shrink in shrinks(found) if shrink.stage)


# ---- equal shares of the work ----


@pytest.mark.parametrize("count", [2, 3, 4, 6])
def test_a_network_of_one_resolution_is_cut_into_equal_work(count: int) -> None:
    found = of_timm("deit_tiny_patch16_224", img_size=64)
    assert not cuts(found)
    places = equal_work_cuts(found, count)
    work = macs_before(found)
    marks = [0, *(work[place.index] for place in places), work[-1]]
    shares = [(b - a) / work[-1] for a, b in pairwise(marks)]
    assert len(shares) == count and max(shares) < 1.3 / count
    assert all(place.name.count(".") == 1 for place in places), "cut between blocks, not inside them"


def test_no_block_is_without_work() -> None:
    found = of_timm("test_vit", img_size=64)
    most = next(count for count in range(2, 50) if len(equal_work_cuts(found, count + 1)) < count)
    work = macs_before(found)
    done = [0, *(work[place.index] for place in equal_work_cuts(found, most)), work[-1]]
    assert done == sorted(set(done))


def test_work_adds_up() -> None:
    found = traced(resnet(20), 3, 32, 32)
    work = macs_before(found)
    assert work[0] == 0 and work[-1] == sum(found.macs.values()) and work == sorted(work)


def test_equal_shares_leave_a_place_for_each_share_that_follows() -> None:
    found = traced(resnet(20), 3, 32, 32)
    places = cuts(found)
    work = [0] * len(found.nodes) + [1]  # all the work comes after the last place
    assert names(equal_shares(places, work, 0, len(found.nodes), 3)) == ["layer1", "layer2"]
    assert names(equal_shares(places, work, 0, len(found.nodes), 2)) in (["layer1"], ["layer2"])
    assert names(equal_shares(places[:1], work, 0, len(found.nodes), 3)) == ["layer1"], "fewer than requested"
