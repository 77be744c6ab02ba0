"""Pairing the cuts of two networks: equal maps in order, or one message that shows both sides."""

from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from graftcli.errors import GraftError, PairError, UsageError
from graftcli.models.cuts.automatic_cuts import cuts, macs_before
from graftcli.models.cuts.pairing import CutOptions, Pair, pair
from graftcli.models.cuts.positions import needs_adapter
from graftcli.models.tracing.trace import Traced, trace
from tests.nets import resnet, resnet18, vgg16
from tests.odd_networks import Plain


def traced(network: nn.Module, size: int = 64) -> Traced:
    return trace(network, torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)))


@cache
def of(name: str, size: int = 64, **kwargs: object) -> Traced:
    """torchvision's network of this name, else timm's; shared by tests, none of which may change it."""
    if name in torchvision.models.list_models():
        return traced(torchvision.models.get_model(name, num_classes=10, **kwargs), size)
    return traced(timm.create_model(name, num_classes=10, **kwargs), size)


def vit(depth: int = 4, **kwargs: Any) -> Traced:
    return of("deit_tiny_patch16_224", img_size=64, depth=depth, embed_dim=48, num_heads=3, **kwargs)


def names(pairs: list[Pair]) -> list[tuple[str, str]]:
    return [(teacher_cut.name, student_cut.name) for teacher_cut, student_cut in pairs]


def refusal(teacher: Traced, student: Traced, choice: CutOptions | None = None) -> GraftError:
    with pytest.raises(GraftError) as caught:
        pair(teacher, student, choice or CutOptions())
    assert caught.value.fix
    return caught.value


# ---- where both shrink ----


def test_a_student_that_ends_with_a_relu_is_paired_behind_the_teachers() -> None:
    """In front of it three quarters of the energy of a VGG's features are negative: no ReLU could give them."""
    found = pair(traced(vgg16(), 32), traced(resnet18(), 32), CutOptions())
    assert names(found) == [("features.3", "layer1"), ("features.8", "layer2"), ("features.15", "layer3")]
    assert all(not needs_adapter(*both) for both in found)


def test_a_student_without_negative_values_has_adapters_where_the_teacher_has_some() -> None:
    linear, relu = traced(Ends(nn.Identity())), traced(Ends(nn.ReLU()))
    ((teacher_cut, student_cut),) = pair(linear, relu, CutOptions())
    assert teacher_cut.channels == student_cut.channels and needs_adapter(teacher_cut, student_cut)
    assert not needs_adapter(student_cut, teacher_cut) and not needs_adapter(teacher_cut, teacher_cut)


class Ends(nn.Module):
    """Two stages, of which the first ends in a given way."""

    def __init__(self, end: nn.Module) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GELU(), nn.Conv2d(8, 8, 3, padding=1), end)
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.GELU(), nn.Conv2d(8, 8, 3, padding=1), nn.GELU())
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.second(self.first(images)))
        return logits


def test_cuts_of_equal_size_are_paired() -> None:
    found = pair(of("resnet18"), of("mobilenet_v2"), CutOptions())
    assert names(found) == [("layer1", "features.3"), ("layer2", "features.6"), ("layer3", "features.13")]
    assert all(teacher_cut.size == student_cut.size for teacher_cut, student_cut in found)


def test_sizes_of_one_network_alone_are_skipped() -> None:
    """A ResNet for small images starts at a size that the other never sees."""
    found = pair(traced(resnet(20), 32), of("resnet18", 128), CutOptions())
    assert [teacher_cut.size for teacher_cut, _ in found] == [(32, 32), (16, 16)]
    assert names(found) == [("layer1", "layer1"), ("layer2", "layer2")]


def test_where_one_cuts_before_a_step_and_the_other_behind_it_the_same_side_is_taken() -> None:
    found = pair(of("vgg11"), of("resnet18"), CutOptions())
    assert [student_cut.name for _, student_cut in found] == ["layer1", "layer2", "layer3"]
    assert all(teacher_cut.size == student_cut.size for teacher_cut, student_cut in found)


def test_paired_cuts_are_in_order_in_both_networks() -> None:
    for teacher, student in (("densenet121", "mobilenet_v2"), ("dla46_c", "vgg11"), ("squeezenet1_1", "squeezenet1_0")):
        found = pair(of(teacher), of(student), CutOptions())
        assert len(found) >= 2
        for one, two in pairwise(found):
            assert one[0].index < two[0].index and one[1].index < two[1].index
        assert all(teacher_cut.size == student_cut.size for teacher_cut, student_cut in found)


# ---- what does not meet ----


def test_maps_that_round_differently_are_named_with_both_sizes() -> None:
    error = refusal(traced(Plain(), 24), traced(Plain(padding=0), 24))
    assert isinstance(error, PairError)
    assert error.message == "cut 2 differs: teacher `b` is 12x12, student `b` is 11x11."
    assert "--img-size" in error.fix and "--split-student" in error.fix


def test_networks_without_a_common_size_are_refused_with_their_sizes() -> None:
    error = refusal(of("resnet18"), traced(resnet(20), 48))
    assert "no common cut" in error.message
    assert "16x16 (`layer1`), 8x8 (`layer2`), 4x4 (`layer3`)" in error.message
    assert "48x48 (`layer1`), 24x24 (`layer2`)" in error.message


def test_a_network_of_one_size_and_one_that_shrinks_show_which_is_which() -> None:
    error = refusal(vit(), of("resnet18"))
    assert "the teacher's feature maps are 4x4 throughout, the student's shrink after 16x16 (`layer1`)" in error.message


def test_a_network_of_branches_alone_cannot_be_cut() -> None:
    class Crossing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = (nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)) for _ in range(2))
            self.head = nn.Linear(16, 5)

        def forward(self, x: Tensor) -> Any:
            return self.head(torch.cat([self.a(x).mean((2, 3)), self.b(x).mean((2, 3))], 1))

    error = refusal(of("resnet18"), traced(Crossing()))
    assert error.message.startswith("the student `Crossing` cannot be cut")


def test_networks_with_and_without_class_token_are_not_paired() -> None:
    error = refusal(vit(), vit(class_token=False, global_pool="avg"))
    assert "teacher `norm_pre` has 1 token without a spatial location, student `norm_pre` no tokens" in error.message


# ---- a number of blocks ----


@pytest.mark.parametrize("count", range(2, 9))
def test_the_requested_number_of_blocks_each_with_work_in_both(count: int) -> None:
    teacher, student = of("resnet34"), of("resnet18")
    found = pair(teacher, student, CutOptions(count))
    assert len(found) == count - 1
    for side, network in enumerate((teacher, student)):
        work = macs_before(network)
        marks = [0, *(work[both[side].index] for both in found), work[-1]]
        assert marks == sorted(set(marks))
    assert all(teacher_cut.size == student_cut.size for teacher_cut, student_cut in found)


def test_fewer_blocks_share_the_teachers_work_and_keep_natural_cuts() -> None:
    teacher = of("resnet34")
    found = pair(teacher, of("resnet18"), CutOptions(3))
    assert {teacher_cut.node for teacher_cut, _ in found} <= {place.node for place in cuts(teacher)}


def test_more_blocks_than_there_are_places_are_refused_with_the_number_there_is() -> None:
    error = refusal(of("resnet34"), of("resnet18"), CutOptions(99))
    assert error.message == "--blocks-count is 99; these two networks can be cut into at most 10 blocks."
    assert len(pair(of("resnet34"), of("resnet18"), CutOptions(10))) == 9


@pytest.mark.parametrize("count", [1, 0, -3])
def test_one_block_leaves_nothing_to_graft(count: int) -> None:
    error = refusal(of("resnet34"), of("resnet18"), CutOptions(count))
    assert isinstance(error, UsageError)
    assert f"--blocks-count {count}" in error.message


def test_networks_of_one_resolution_are_cut_by_depth_into_four_blocks_or_the_requested_number() -> None:
    found = names(pair(vit(12), vit(4), CutOptions()))
    assert found == [("blocks.1", "norm_pre"), ("blocks.4", "blocks.0"), ("blocks.8", "blocks.2")]
    assert len(pair(vit(8), vit(8), CutOptions(6))) == 5


def test_a_short_network_gets_fewer_blocks_unless_four_are_requested() -> None:
    class Short(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1), nn.Linear(8 * 1024, 5)

        def forward(self, x: Tensor) -> Any:
            return self.head(self.b(self.a(x)).flatten(1))

    short = traced(Short(), 32)
    assert names(pair(short, traced(Short(), 32), CutOptions())) == [("a", "a"), ("b", "b")]
    error = refusal(short, traced(Short(), 32), CutOptions(6))
    assert "--blocks-count is 6; these two networks" in error.message


# ---- by hand ----


def test_names_of_modules_are_places_behind_them() -> None:
    choice = CutOptions(teacher=("layer1.1", "layer3"), student=("layer1.0", "layer3"))
    assert names(pair(of("resnet34"), of("resnet18"), choice)) == [("layer1.1", "layer1.0"), ("layer3", "layer3")]


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_where_one_network_is_named_the_other_follows(role: str) -> None:
    chosen: dict[str, Any] = {role: ("layer2", "layer3")}
    found = pair(of("resnet34"), of("resnet18"), CutOptions(**chosen))
    assert names(found) == [("layer2", "layer2"), ("layer3", "layer3")]


@pytest.mark.parametrize(
    ("choice", "found", "fix"),
    [
        (CutOptions(teacher=("layer9",)), "--split-teacher: `layer9` is not in the network.", "`layer"),
        (
            CutOptions(teacher=("layer1.0.conv1",)),
            "`layer1.0.conv1` is not a position where a single tensor is alive",
            "`layer1.0`",
        ),
        (CutOptions(student=("layer2", "layer1")), "--split-student: `layer1` does not come after `layer2`.", "order"),
        (CutOptions(student=("layer1", "layer1")), "--split-student: `layer1` does not come after `layer1`.", "order"),
        (CutOptions(None, ("layer1", "layer2"), ("layer1",)), "names 2 cuts; --split-student names 1", "same number"),
        (
            CutOptions(None, ("layer1",), ("layer2",)),
            "`layer1` is 16x16, student `layer2` is 8x8",
            "--split-student",
        ),
        (
            CutOptions(None, ("conv1",), ("layer1",)),
            "`conv1` is 32x32, student `layer1` is 16x16",
            "--img-size",
        ),
    ],
)
def test_names_that_do_not_work_are_answered(choice: CutOptions, found: str, fix: str) -> None:
    error = refusal(of("resnet34"), of("resnet18"), choice)
    assert isinstance(error, PairError)
    assert found in error.message and fix in error.fix


@pytest.mark.parametrize(
    "choice", [CutOptions(teacher=()), CutOptions(4, ("layer1",)), CutOptions(2, None, ("layer1", "layer2"))]
)
def test_a_choice_that_contradicts_itself_is_a_usage_error(choice: CutOptions) -> None:
    assert isinstance(refusal(of("resnet34"), of("resnet18"), choice), UsageError)


def test_after_a_stem_without_stages_the_network_is_cut_by_depth() -> None:
    teacher, student = of("xcit_tiny_12_p16_224", 64), of("xcit_nano_12_p16_224", 64)
    found = pair(teacher, student, CutOptions())
    work = [macs_before(teacher)[teacher_cut.index] for teacher_cut, _ in found]
    total = macs_before(teacher)[-1]
    shares = [(after - before) / total for before, after in pairwise([*work, total])]
    assert len(shares) >= 4 and max(shares) < 0.3
    assert all(teacher_cut.size == student_cut.size for teacher_cut, student_cut in found)
