"""A student's initial weights from its teacher."""

import copy
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import densenet
from torchvision.models import resnet as torchvision_resnet

from graftcli.graft.initialize.inherit import inherit
from graftcli.models.channel_selection import ChannelSelection, layer_at
from graftcli.models.cuts import plan as plans
from graftcli.models.cuts.plan import Side, example
from graftcli.models.network import Network
from graftcli.models.tracing.trace import trace
from tests import nets, pairs
from tests.engine import network, plan
from tests.nets import randomise, resnet

IMAGES = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(3))


def test_a_student_of_the_same_shape_becomes_its_teacher() -> None:
    made = plan((6, 8, 10), (6, 8, 10), depth=1)
    inherit(made.teacher, made.student, IMAGES)
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(made.student.network.module(images), made.teacher.network.module(images))


def test_a_shallower_student_takes_units_at_even_depth() -> None:
    deep, shallow = randomise(resnet(depth=32)), resnet(depth=20)
    made = plans.make(network(deep, "deep"), network(shallow, "shallow"))
    inherit(made.teacher, made.student, IMAGES)
    for mine, source in ((0, 0), (1, 2), (2, 4)):
        for name, tensor in shallow.layer2[mine].state_dict().items():
            assert torch.equal(tensor, deep.layer2[source].state_dict()[name])
    assert torch.equal(shallow.linear.weight, deep.linear.weight)


# -- narrower students --------------------------------------------------------------------------------------------


def side(net: Network) -> Side:
    return Side(net, trace(net.module, example(net)), ())


def slim_densenet(growth: int, width: int) -> nn.Module:
    made: nn.Module = densenet.DenseNet(growth, (2, 3), width, num_classes=10)
    return made


def slim_resnext(groups: int, width: int) -> nn.Module:
    block = torchvision_resnet.Bottleneck
    made: nn.Module = torchvision_resnet.ResNet(block, [1, 2, 1, 1], 10, groups=groups, width_per_group=width)
    return made


def of_torchvision(name: str, **kwargs: float) -> Callable[[], nn.Module]:
    return lambda: torchvision.models.get_model(name, num_classes=10, **kwargs)


class ByAGate(nn.Module):
    """Places weighed by one gate for all channels, a scale a channel, halves that change places, a flat view."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, 2, 1)
        self.gate = nn.Conv2d(width, 1, 1)
        self.scale = nn.Parameter(torch.rand(width, 1, 1))
        self.body = nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.head = nn.Linear(8 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = self.body(self.scale * (x * self.gate(x).sigmoid()))
        first, second = x.chunk(2, 1)
        x = F.adaptive_avg_pool2d(torch.cat([second.relu(), first.tanh()], 1), 2)
        logits: Tensor = self.head(x.view(x.shape[0], -1))
        return logits


FAMILIES: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "concatenated": (torchvision.models.squeezenet1_1, nets.squeezenet),
    "concatenated again and again": (lambda: slim_densenet(8, 16), lambda: slim_densenet(4, 8)),
    "summed and padded": (lambda: resnet(20), lambda: resnet(20, width=8)),
    "depthwise": (of_torchvision("mobilenet_v2"), of_torchvision("mobilenet_v2", width_mult=0.5)),
    "narrower groups": (lambda: slim_resnext(4, 8), lambda: slim_resnext(4, 4)),
    "fewer groups": (lambda: slim_resnext(4, 8), lambda: slim_resnext(2, 8)),
    "chunked and shuffled": (of_torchvision("shufflenet_v2_x1_0"), of_torchvision("shufflenet_v2_x0_5")),
    "flattened": (lambda: pairs.FlatVGG(12), lambda: pairs.FlatVGG(8)),
    "squeezed and excited": (
        of_torchvision("mobilenet_v3_small"),
        of_torchvision("mobilenet_v3_small", width_mult=0.75),
    ),
    "gated and scaled": (lambda: ByAGate(8), lambda: ByAGate(4)),
}


def masked(module: nn.Module, kept: tuple[ChannelSelection, ...]) -> nn.Module:
    """The teacher in which every layer reads zeros of the channels that the student has not."""
    made = copy.deepcopy(module).double()
    for one in kept:
        layer = layer_at(made, one.teacher_layer)
        if isinstance(layer, nn.Linear):
            layer.weight.data *= _mask(layer.in_features, one)
        elif isinstance(layer, nn.Conv2d) and layer.groups < layer.in_channels:
            groups = _mask(layer.in_channels, one).reshape(layer.groups, -1)
            layer.weight.data *= groups.repeat_interleave(layer.out_channels // layer.groups, 0)[..., None, None]
    return made


def _mask(count: int, kept: ChannelSelection) -> Tensor:
    return torch.zeros(count, dtype=torch.float64).index_fill(0, torch.tensor(kept.inputs), 1.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_narrower_student_equals_the_teacher_with_missing_channels_zeroed(family: str) -> None:
    teacher, student = (side(pairs.network(make, role, 32)) for make, role in zip(FAMILIES[family], "ts", strict=True))
    kept = inherit(teacher, student, torch.randn(4, 3, 32, 32))
    student_module = student.network.module
    with_weights = [
        path for path, m in student_module.named_modules() if next(m.parameters(recurse=False), None) is not None
    ]
    assert {one.layer for one in kept} >= {path for path in with_weights if path}
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        answers = student_module.double()(images), masked(teacher.network.module, kept)(images)
    assert torch.allclose(*answers, rtol=1e-9, atol=1e-9 * float(answers[1].abs().max()))


def test_where_the_other_channels_are_dead_the_student_is_its_teacher() -> None:
    module = randomise(resnet(20)).eval()
    alive = {16: [1, 3, 4, 7, 8, 12, 14, 15]}
    alive[32] = [0, 2, *(8 + place for place in alive[16]), *(4, 6), *(24, 27, 29, 31)]
    alive[64] = [0, 2, 5, 7, 9, 12, 13, 15, *(16 + place for place in alive[32]), *range(48, 56)]
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            dead = sorted(set(range(norm.num_features)) - set(alive[norm.num_features]))
            norm.weight.data[dead] = norm.bias.data[dead] = 0.0
    teacher, student = side(network(module, "teacher")), side(network(resnet(20, width=8), "student"))
    kept = inherit(teacher, student, IMAGES)
    assert next(one for one in kept if one.layer == "conv1").outputs == tuple(alive[16])
    student_module = student.network.module.double()
    assert torch.allclose(student_module(IMAGES.double()), module.double()(IMAGES.double()), rtol=1e-9, atol=1e-9)


def test_the_same_images_choose_the_same_channels() -> None:
    found = []
    for _ in range(2):
        made = plan((8, 12, 16), (6, 8, 10), depth=3)
        found.append((inherit(made.teacher, made.student, IMAGES), made.student.network.module.state_dict()))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(tensor, found[1][1][name]) for name, tensor in found[0][1].items())


def test_layers_take_what_the_facts_say() -> None:
    made = plan((8, 12, 16), (6, 8, 10), depth=3)
    kept = {one.layer: one for one in inherit(made.teacher, made.student, IMAGES)}
    teacher_module, student_module = (side.network.module for side in (made.teacher, made.student))
    one = kept["stages.1.0.0"]
    expected = teacher_module.get_parameter(f"{one.teacher_layer}.weight")[list(one.outputs)][:, list(one.inputs)]
    assert torch.equal(student_module.get_parameter("stages.1.0.0.weight"), expected)
    assert one.inputs == kept["stages.0.1.0"].outputs and len(set(one.outputs)) == 8


@pytest.mark.parametrize("name", ["swin", "mobilevit, some modules kept whole", "resnet, densenet", "deit", "convnext"])
def test_what_cannot_be_followed_is_no_fault(name: str) -> None:
    made = copy.deepcopy(pairs.planned(name).teacher.network), copy.deepcopy(pairs.planned(name).student.network)
    teacher, student = map(side, made)
    before = copy.deepcopy(teacher.network.module)
    inherit(teacher, student, torch.randn(2, *made[0].input_size))
    assert nets.same_weights(before, teacher.network.module)
    assert bool(student.network.module(torch.randn(2, *made[1].input_size)).isfinite().all())
