"""Law 1: join(split(net))(x) == net(x), bit for bit, in float32 and eval mode, also for another number of images."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, fx, nn
from torch.nn import functional as F

from graftcli.errors import PairError
from graftcli.models.cuts.automatic_cuts import cuts, equal_work_cuts
from graftcli.models.cuts.positions import Position, positions
from graftcli.models.tracing.split import join, split
from graftcli.models.tracing.trace import trace
from tests.architectures import ARCHITECTURES, EXCEPTIONS, Architecture, family_of, module_of
from tests.nets import randomise, resnet


def images(*size: int, count: int = 3, seed: int = 7) -> Tensor:
    return torch.randn(count, *size, generator=torch.Generator().manual_seed(seed))


def behind(network: nn.Module, *names: str, size: tuple[int, ...] = (3, 32, 32)) -> list[fx.GraphModule]:
    """The network in blocks, cut behind these modules."""
    traced = trace(network, images(*size, count=2))
    by_name = {place.name: place for place in positions(traced)}
    return split(traced, [by_name[name] for name in names])


# ---- every architecture ----


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda architecture: str(architecture.spec))
def test_law_1(architecture: Architecture) -> None:
    if not architecture.installed:
        pytest.skip(f"{architecture.spec} came with a later version of its library")
    network, size = architecture.build(), (3, architecture.size, architecture.size)
    traced = trace(network, images(*size, count=2, seed=0))
    places: list[Position] = cuts(traced) or equal_work_cuts(traced, 4)
    blocks = split(traced, places)
    assert len(blocks) == 1 + len(places) >= architecture.blocks
    assert len(blocks) > 1 or architecture.blocks == 1
    batch = images(*size)
    with torch.no_grad():
        expected = network(batch.clone())
        assert torch.equal(join(blocks)(batch), expected)
    assert expected.isfinite().all(), "what is compared are numbers"
    assert torch.equal(batch, images(*size)), "the images are left as they are"
    _check_parameters(network, blocks)


def _check_parameters(network: nn.Module, blocks: list[fx.GraphModule]) -> None:
    """The blocks hold the network's own parameters: training them trains it."""
    own = {id(parameter) for parameter in network.parameters()}
    assert {id(p) for block in blocks for p in block.parameters()} <= own


def test_every_module_of_timm_is_represented() -> None:
    present = {module_of(name) for name in timm.list_models()}
    named = [architecture.spec.removeprefix("timm:") for architecture in ARCHITECTURES]
    shown = {module_of(name) for name in named if timm.is_model(name)}
    assert present - shown - EXCEPTIONS.keys() == set()
    assert not shown & EXCEPTIONS.keys()


def test_every_family_of_torchvisions_classifiers_is_represented() -> None:
    names = torchvision.models.list_models(module=torchvision.models)
    shown = {a.spec.removeprefix("torchvision:") for a in ARCHITECTURES if a.spec.startswith("torchvision:")}
    assert {family_of(name) for name in names} == {family_of(name) for name in shown}


# ---- the blocks ----


@pytest.mark.parametrize("count", [1, 5])
def test_blocks_work_for_any_number_of_images(count: int) -> None:
    network = randomise(timm.create_model("test_vit", img_size=64, num_classes=10)).eval()
    blocks = behind(network, "blocks.0", "blocks.2", size=(3, 64, 64))
    batch = images(3, 64, 64, count=count)
    with torch.no_grad():
        assert torch.equal(join(blocks)(batch), network(batch))


class Counting(nn.Module):
    """Asks at its top how many images there are, and needs it at its end."""

    def __init__(self, count_of: Callable[[Tensor], int]) -> None:
        super().__init__()
        self.count_of = count_of
        self.first, self.second, self.head = nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 6, 3, 2), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        count = self.count_of(x)
        return self.head(self.second(self.first(x)).mean((2, 3)).reshape(count, -1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("count_of", [lambda x: x.size(0), lambda x: x.size(dim=0), lambda x: x.size(-4), len])
def test_the_batch_size_stays_dynamic_however_it_is_read(count_of: Callable[[Tensor], int]) -> None:
    network = randomise(Counting(count_of)).eval()
    batch = images(3, 32, 32, count=7)
    with torch.no_grad():
        assert torch.equal(join(behind(network, "first"))(batch), network(batch))


def test_a_block_that_holds_the_number_of_images_it_was_made_with_is_refused() -> None:
    with pytest.raises(PairError, match="computes a different function than uncut"):
        behind(Counting(lambda x: x.numel() // 3072).eval(), "first")


def test_blocks_are_the_networks_own_modules() -> None:
    network = resnet(20)
    blocks = behind(network, "layer1", "layer2")
    assert blocks[1].get_submodule("layer2.0.conv1") is network.layer2[0].conv1
    names = [{name.partition(".")[0] for name, _ in block.named_parameters()} for block in blocks]
    assert names == [{"conv1", "bn1", "layer1"}, {"layer2"}, {"layer3", "linear"}]


def test_a_block_can_be_copied_trained_and_run_in_other_precision() -> None:
    network = randomise(resnet(20))
    block = copy.deepcopy(behind(network, "layer1", "layer2")[1]).double().train()
    block(images(16, 32, 32).double()).sum().backward()
    assert all(parameter.grad is not None for parameter in block.parameters())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_dtype_queries_across_a_cut_work_in_every_precision() -> None:
    class Casting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Any:
            y = self.conv(x).relu()
            return self.head((y.float().sigmoid().mean((2, 3)) * x.shape[3]).to(x.dtype).to(x.device))

    network = Casting().eval()
    blocks = behind(network, "conv")
    double = join(copy.deepcopy(blocks)).double()
    with torch.no_grad():
        assert double(images(3, 32, 32).double()).dtype == torch.float64
        assert torch.equal(join(blocks)(images(3, 32, 32)), network(images(3, 32, 32)))


def test_features_at_a_cut_are_not_written_into_by_the_next_block() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Any:
            x = self.conv1(x.mul_(2))
            x.view(-1).add_(1)
            return self.head(F.relu_(self.conv2(F.relu_(x))).mean((2, 3)))

    network = randomise(InPlace()).eval()
    blocks = behind(network, "conv1", "conv2")
    with torch.no_grad():
        expected, value = network(images(3, 32, 32)), images(3, 32, 32)
        for block in blocks:
            before = value.clone()
            result = block(value)
            assert torch.equal(value, before)
            value = result
    assert torch.equal(value, expected)


@pytest.mark.parametrize("name", ["timm:resnet10t", "torchvision:vgg11_bn", "torchvision:densenet121"])
def test_cached_features_stay_also_where_a_library_writes_in_place(name: str) -> None:
    network = Architecture(name).build()
    traced = trace(network, images(3, 64, 64, count=2))
    value = images(3, 64, 64)
    with torch.no_grad():
        for block in split(traced, positions(traced)):
            before = value.clone()
            result = block(value)
            assert torch.equal(value, before)
            value = result


def test_parameters_may_be_shared_between_blocks() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.shared = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)
            self.other, self.head = nn.Conv2d(8, 8, 3, 2, 1), nn.Linear(8, 5)
            self.other.weight = self.shared.weight

        def forward(self, x: Tensor) -> Any:
            x = self.shared(self.shared(self.stem(x)))
            return self.head(self.other(x).mean((2, 3)))

    network = randomise(Tied()).eval()
    blocks = behind(network, "stem", "shared")
    assert len(blocks) == 3
    with torch.no_grad():
        assert torch.equal(join(blocks)(images(3, 32, 32)), network(images(3, 32, 32)))


def test_every_place_that_qualifies_can_be_cut_at() -> None:
    """All at once: the smallest blocks there are."""
    for name, size in (("timm:test_vit", 64), ("timm:swin_tiny_patch4_window7_224", 64), ("timm:mvitv2_tiny", 64)):
        network = Architecture(name, size).build()
        traced = trace(network, images(3, size, size, count=2))
        blocks = split(traced, positions(traced))
        assert len(blocks) > 20
        with torch.no_grad():
            assert torch.equal(join(blocks)(images(3, size, size)), network(images(3, size, size))), name


def test_channels_last_images_and_networks_are_cut_too() -> None:
    network = randomise(resnet(20)).eval().to(memory_format=torch.channels_last)
    blocks = behind(network, "layer1", "layer2")
    batch = images(3, 32, 32).to(memory_format=torch.channels_last)
    with torch.no_grad():
        assert torch.equal(join(blocks)(batch), network(batch))


def test_a_chain_that_depends_on_values_is_not_cut_where_that_changes_its_output() -> None:
    class Moody(nn.Module):
        """A chain on the images it was traced with, and something else on others."""

        def __init__(self) -> None:
            super().__init__()
            self.stem, self.layer, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1), nn.Linear(8, 5)
            self.seen: list[float] = []

        def forward(self, x: Tensor) -> Any:
            y = self.stem(x)
            if len(x) > 2:
                y = y * 2
            return self.head(self.layer(y).mean((2, 3)))

    with pytest.raises(PairError) as caught:
        behind(Moody(), "stem", "layer")
    assert "cut into 3 blocks computes a different function than uncut" in caught.value.message
