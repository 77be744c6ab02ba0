"""Narrower students: which channels stay, and that the rest of the network does not miss the others."""

import pytest
import torch
from torch import Tensor, nn

from graftcli.errors import PairError, UsageError
from graftcli.models.channel_selection import ChannelSelection, layer_at, narrow, reads_all
from graftcli.models.cuts.plan import example
from graftcli.models.network import Network
from graftcli.models.tracing.trace import Traced, trace
from graftcli.students.kinds.narrower import Narrower
from graftcli.students.kinds.pruned import Pruned
from graftcli.students.student_kind import StudentKind
from tests import nets, pairs


def traced(network: Network) -> Traced:
    return trace(network.module, example(network))


def of(module: nn.Module, size: int = 32) -> Traced:
    return trace(module.eval(), torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)))


def changed(
    net: Traced, student: StudentKind, images: Tensor | None = None
) -> tuple[tuple[ChannelSelection, ...], list[str]]:
    changes = student.changes(net, None if images is None else lambda: images)
    return changes.selections, list(changes.whole)


def by_layer(kept: tuple[ChannelSelection, ...]) -> dict[str, ChannelSelection]:
    return {one.layer: one for one in kept}


def masked(module: nn.Module, kept: tuple[ChannelSelection, ...]) -> nn.Module:
    """The teacher that reads zeros of the channels that went."""
    made = narrow(module, ())
    for one in kept:
        layer = layer_at(made, one.layer)
        if isinstance(layer, nn.Conv2d | nn.Linear) and reads_all(layer):
            gone = sorted(set(range(layer.weight.shape[1])) - set(one.inputs))
            layer.weight.data[:, gone] = 0
    return made


NETWORKS = {
    "coupled by sums": lambda: pairs.of_torchvision("resnet18", 32),
    "a shortcut without parameters": lambda: pairs.cifar(8),
    "concatenated": lambda: pairs.network(nets.squeezenet, "squeezenet", 64),
    "depthwise, squeezed and excited": lambda: pairs.of_timm("mobilenetv3_small_050", 32),
    "flattened": lambda: pairs.flat_vgg(8),
    "without BatchNorm": lambda: pairs.network(lambda: nets.vgg16(width=8), "vgg16", 32),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_pruned_student_equals_the_teacher_with_removed_channels_zeroed(kind: str) -> None:
    net = traced(NETWORKS[kind]())
    kept, _ = changed(net, Pruned("l1", 0.4))
    student, teacher = narrow(net.module, kept).double(), masked(net.module, kept).double()
    images = torch.randn(2, *net.example.shape[1:], dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(student(images), teacher(images), rtol=1e-9, atol=1e-9)
    assert sum(p.numel() for p in student.parameters()) < 0.8 * sum(p.numel() for p in teacher.parameters())


def test_channels_that_torch_pruning_couples_wrongly_stay() -> None:
    kept, whole = changed(of(nets.randomise(nets.resnet(depth=8))), Narrower((0.5,)))
    layers = by_layer(kept)
    # the padded shortcuts put channels elsewhere
    assert whole == ["conv1", "layer1.0.conv2", "layer2.0.conv2", "layer3.0.conv2"]
    assert len(layers["conv1"].outputs) == 16 and len(layers["layer3.0.conv1"].outputs) == 32


def test_norms_and_scales_of_channels_are_narrowed_with_the_layers_around_them() -> None:
    net = traced(pairs.of_timm("convnext_atto", 32))
    kept, whole = changed(net, Pruned("l1", 0.5))
    student = narrow(net.module, kept)
    scale = next(one for one in kept if one.layer == "stages.1.blocks.0.gamma")
    assert torch.equal(
        student.get_parameter(scale.layer), net.module.get_parameter(scale.layer)[torch.tensor(scale.outputs)]
    )
    assert whole == [] and len(scale.outputs) == 40
    assert by_layer(kept)["stages.1.blocks.0.norm"].outputs == scale.outputs
    assert student(net.example).shape == (2, pairs.CLASSES)


@pytest.mark.parametrize("slopes", [1, 8])
def test_prelu_slopes_are_narrowed_per_channel_and_a_shared_one_stays(slopes: int) -> None:
    layers = (nn.Conv2d(3, 8, 3, 2), nn.PReLU(slopes), nn.Conv2d(8, 8, 3, 2), nn.Flatten(), nn.Linear(72, 10))
    net = nets.randomise(nn.Sequential(*layers))
    net.get_parameter("1.weight").data.uniform_(0.1, 0.9)
    kept, whole = changed(of(net, 16), Pruned("l1", 0.5))
    assert whole == []
    student = narrow(net, kept)
    assert student.get_parameter("1.weight").numel() == max(1, slopes // 2)
    images = torch.randn(2, 3, 16, 16)
    assert torch.allclose(student(images), masked(net, kept)(images), atol=1e-5)


def test_the_papers_half_of_vgg16_has_its_parameters() -> None:
    teacher = nets.vgg16()
    assert sum(p.numel() for p in teacher.parameters()) == 14_983_498
    kept, whole = changed(of(teacher), Narrower((1, 1, 1, 0.5, 0.5)))
    student = narrow(teacher, kept)
    assert sum(p.numel() for p in student.parameters()) == 5_413_706
    assert whole == []
    assert student.get_parameter("classifier.0.weight").shape == (512, 256)


def test_a_narrower_student_has_the_first_channels() -> None:
    kept, _ = changed(of(nets.vgg16(width=8)), Narrower((0.5,)))
    assert by_layer(kept)["features.2"] == ChannelSelection(
        "features.2", "features.2", tuple(range(4)), tuple(range(4))
    )


def test_by_a_factor_of_one_the_student_is_the_teacher() -> None:
    net = nets.randomise(nets.vgg16(width=8))
    kept, whole = changed(of(net), Narrower((1,)))
    assert nets.same_weights(narrow(net, kept), net) and whole == []


def test_a_network_without_channels_of_its_own_is_refused() -> None:
    vectors = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 6), nn.ReLU(), nn.Linear(6, 5))
    with pytest.raises(PairError, match="no channels"):
        changed(of(vectors, 8), Narrower((0.5,)))


def test_hidden_channels_of_token_mlps_are_pruned_too() -> None:
    net = pairs.of_timm("vit_tiny_patch16_224", img_size=64, depth=2)
    kept, _ = changed(traced(net), Narrower((0.5,)))
    assert narrow(net.module, kept).get_parameter("blocks.1.mlp.fc1.weight").shape == (384, 192)
    net = pairs.of_torchvision("convnext_tiny", 32)
    kept, whole = changed(traced(net), Narrower((0.5,)))
    assert whole == [] and narrow(net.module, kept).get_parameter("features.1.0.block.3.weight").shape == (192, 48)


def test_as_many_factors_as_blocks_are_needed() -> None:
    with pytest.raises(UsageError, match="5 blocks, but the spec gives 2 factors"):
        changed(of(nets.vgg16(width=8)), Narrower((1, 0.5)))


def test_the_smallest_filters_go_first() -> None:
    net = nets.randomise(nets.vgg16(width=8))
    weight = net.get_parameter("features.0.weight")
    weight.data[[1, 4]] *= 0.01
    kept, _ = changed(of(net), Pruned("l1", 0.25))
    assert by_layer(kept)["features.0"].outputs == (0, 2, 3, 5, 6, 7)


def test_the_smallest_scales_of_the_whole_network_go_and_each_layer_keeps_a_tenth() -> None:
    net = nets.randomise(nets.resnet(depth=8))
    net.get_parameter("layer2.0.bn1.weight").data.fill_(0.001)
    net.get_parameter("layer1.0.bn1.weight").data.fill_(9.0)
    layers = by_layer(changed(of(net), Pruned("slim", 0.5))[0])
    assert len(layers["layer2.0.conv1"].outputs) == 3
    assert len(layers["layer1.0.conv1"].outputs) == 16


def test_without_batchnorm_there_are_no_scales_to_go_by() -> None:
    with pytest.raises(PairError, match="no BatchNorm"):
        changed(traced(pairs.flat_vgg(8)), Pruned("slim", 0.5))


def test_channels_that_carry_nothing_on_the_images_go_first() -> None:
    net = nets.randomise(nets.vgg16(width=8))
    net.get_parameter("features.5.bias").data.fill_(1.0)[[0, 7]] = -100.0
    kept, _ = changed(of(net), Pruned("act", 0.125), torch.randn(5, 3, 32, 32))
    assert by_layer(kept)["features.5"].outputs == tuple(range(1, 7)) + tuple(range(8, 16))
