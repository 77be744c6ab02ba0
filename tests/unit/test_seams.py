"""Seams, scions and grafted networks: laws 2 and 5."""

import copy

import pytest
import torch
from torch import Tensor, nn

from graftcli.errors import UsageError
from graftcli.graft.surgery.seams import Adapter, Relayout, Scion, graft, scion, seams
from graftcli.models.cuts.plan import make
from graftcli.models.cuts.positions import Layout
from graftcli.models.network import Network
from tests import nets
from tests.pairs import PAIRS, neighbours, noise, of_timm, of_torchvision, planned, random_seams

LAYOUTS: tuple[Layout, ...] = ("NCHW", "NHWC", "tokens")
ITSELF = {
    "resnet10t": lambda: of_timm("resnet10t"),
    "densenet121": lambda: of_torchvision("densenet121"),
    "shufflenet_v2_x0_5": lambda: of_torchvision("shufflenet_v2_x0_5"),
    "mobilevit_xxs": lambda: of_timm("mobilevit_xxs"),
    "convnext_atto": lambda: of_timm("convnext_atto"),
    "swin": PAIRS["swin"].student,
    "vgg": PAIRS["vgg with a flattened map"].teacher,
    "cifar": PAIRS["resnet for small images, option A"].student,
}


def laid(rows: Tensor, layout: Layout) -> Tensor:
    """Channels-last rows [batch, height, width, channels] in a layout."""
    return {"NCHW": rows.permute(0, 3, 1, 2), "NHWC": rows, "tokens": rows.flatten(1, 2)}[layout]


@pytest.mark.parametrize("target", LAYOUTS)
@pytest.mark.parametrize("source", LAYOUTS)
def test_an_adapter_multiplies_each_place_in_any_layout(source: Layout, target: Layout) -> None:
    rows = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    adapter = Adapter(5, 7, source, target, (3, 4)).double()
    adapter.weight.data = torch.randn(7, 5, dtype=torch.float64)
    found = adapter(laid(rows, source))
    torch.testing.assert_close(found, laid(rows @ adapter.weight.T, target))
    assert torch.equal(Relayout(source, target, (3, 4))(laid(rows, source)), laid(rows, target))
    assert dict(adapter.named_parameters()).keys() == {"weight"}


def test_tokens_beside_the_map_are_multiplied_like_the_others() -> None:
    tokens = torch.randn(2, 1 + 12, 5)  # a class token and a map of 3 x 4
    adapter = Adapter(5, 7, "tokens", "tokens", (3, 4))
    assert torch.equal(adapter(tokens)[:, 0], (tokens @ adapter.weight.T)[:, 0])


@pytest.mark.parametrize("name", PAIRS)
def test_adapters_stand_where_the_channels_differ_and_start_as_the_identity(name: str) -> None:
    plan = planned(name)
    found = seams(plan)
    assert len(found) == len(plan.blocks) - 1
    for seam in found:
        differ = seam.teacher_cut.channels != seam.student_cut.channels
        assert bool(list(seam.parameters())) is differ
        if differ:
            weight = seam.to_student.get_parameter("weight")
            assert torch.equal(weight, torch.eye(seam.student_cut.channels, seam.teacher_cut.channels))
            assert torch.equal(seam.to_teacher.get_parameter("weight"), weight.T)
        elif seam.teacher_cut.layout == seam.student_cut.layout:
            assert isinstance(seam.to_student, nn.Identity)
    assert all(list(seam.parameters()) for seam in seams(plan, "always"))


@pytest.mark.parametrize("name", ITSELF)
@torch.no_grad()
def test_grafting_a_networks_own_blocks_into_it_changes_nothing(name: str) -> None:
    teacher = ITSELF[name]()
    student = Network(**{**vars(teacher), "module": copy.deepcopy(teacher.module)})
    plan = make(teacher, student, PAIRS["vgg with a flattened map"].choice if name == "vgg" else None)
    images = noise(plan, 3)
    expected = teacher.module(images)
    for blocks in [*neighbours(len(plan.blocks)), range(1, len(plan.blocks) + 1)]:
        assert torch.equal(graft(plan, seams(plan), blocks)(images), expected), blocks


@pytest.mark.parametrize("name", PAIRS)
@torch.no_grad()
def test_every_block_of_every_pair_can_be_grafted(name: str) -> None:
    plan, joined = planned(name), random_seams(planned(name))
    images = noise(plan)
    scores = [graft(plan, joined, {block.index})(images) for block in plan.blocks]
    assert all(found.shape == (2, 10) and bool(found.isfinite().all()) for found in scores)


@torch.no_grad()
def test_a_grafted_network_is_the_teacher_with_scions_in_it() -> None:
    plan = planned("regnetx")
    joined = random_seams(plan)
    grafted = graft(plan, joined, {2, 3})
    assert [type(part) is Scion for part in grafted] == [False, True, True, False]
    assert grafted[0] is plan.teacher.blocks[0]
    assert grafted[1].block is plan.student.blocks[1]
    value = noise(plan)
    value = joined[0].to_student(plan.teacher.blocks[0](value))
    value = joined[1].to_teacher(plan.student.blocks[1](value))  # the teacher's space, also between two student blocks
    assert value.shape[1:] == plan.teacher.cuts[1].shape
    value = joined[2].to_teacher(plan.student.blocks[2](joined[1].to_student(value)))
    assert torch.equal(grafted(noise(plan)), plan.teacher.blocks[3](value))


def test_before_the_first_and_after_the_last_block_lies_nothing() -> None:
    plan = planned("regnetx")
    joined = seams(plan)
    assert isinstance(scion(plan, joined, 1).to_student, nn.Identity)
    assert isinstance(scion(plan, joined, len(plan.blocks)).to_teacher, nn.Identity)
    assert scion(plan, joined, 2).to_student is joined[0].to_student
    assert scion(plan, joined, 2).to_teacher is joined[1].to_teacher


def test_training_a_scion_trains_the_students_own_module_and_leaves_the_teacher_alone() -> None:
    plan = make(
        PAIRS["resnet for small images, option A"].teacher(), PAIRS["resnet for small images, option A"].student()
    )
    joined = seams(plan, "always")
    before = copy.deepcopy(plan.teacher.network.module)
    grafted = graft(plan, joined, {2})
    optimiser = torch.optim.SGD(grafted[1].parameters(), lr=0.1)
    grafted(noise(plan)).square().mean().backward()
    own = dict(plan.student.network.module.named_parameters())
    moved = {name for name, parameter in own.items() if parameter.grad is not None}
    assert moved == {name for name in own if name.startswith("layer2")}
    weight = own["layer2.0.conv1.weight"].clone()
    optimiser.step()
    assert not torch.equal(weight, own["layer2.0.conv1.weight"])
    assert joined[0].to_student.get_parameter("weight").grad is not None
    assert joined[0].to_teacher.get_parameter("weight").grad is None
    assert nets.same_weights(plan.teacher.network.module, before)


def test_blocks_that_the_plan_does_not_have_are_refused() -> None:
    plan = planned("regnetx")
    with pytest.raises(UsageError, match=r"blocks 1 to 4, not 0, 7"):
        graft(plan, seams(plan), {0, 2, 7})


def test_a_copy_of_a_seam_has_weights_of_its_own_and_shares_the_facts() -> None:
    seam = random_seams(planned("regnetx"))[0]
    other = copy.deepcopy(seam)
    assert other.teacher_cut is seam.teacher_cut
    assert nets.same_weights(other, seam)
    other.to_student.get_parameter("weight").data.zero_()
    assert not nets.same_weights(other, seam)
