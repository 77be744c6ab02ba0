"""Plans: the paper's own blocks and numbers, and pairs of very different families."""

import copy
import json
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graftcli
from graftcli.errors import PairError
from graftcli.models.cuts.plan import Plan, as_json, head_params, make, stem_params
from graftcli.models.network import IMAGENET, Network
from graftcli.models.origin import ModuleOrigin
from graftcli.models.weights import Weights, WeightsOrigin
from tests.nets import randomise, resnet, same_weights
from tests.odd_networks import Inside, Plain


def of(module: nn.Module, classes: int = 10, size: tuple[int, int, int] = (3, 32, 32)) -> Network:
    name = type(module).__name__.lower()
    origin: ModuleOrigin = {"kind": "in-memory", "key": name}
    return Network(module.eval(), name, "package", Weights(WeightsOrigin.RANDOM), size, classes, IMAGENET, origin)


def planned(teacher: str, student: str, size: int | None = 64, **more: Any) -> Plan:
    return graftcli.plan(teacher, student, img_size=size, **more)


def test_the_papers_networks_are_cut_into_the_papers_blocks() -> None:
    made = as_json(planned("torchvision:resnet34", "torchvision:resnet18", None))
    spans = [(b["teacher"]["first"], b["teacher"]["last"]) for b in made["blocks"]]
    assert spans == [("conv1", "layer1"), ("layer2", "layer2"), ("layer3", "layer3"), ("layer4", "fc")]
    for role, expected in (
        ("teacher", [221_952, 1_116_416, 6_822_400, 13_114_368]),
        ("student", [147_968, 525_568, 2_099_712, 8_393_728]),
    ):
        params = [b[role]["params"] for b in made["blocks"]]
        params[0] -= made[role]["stem"]
        params[-1] -= made[role]["head"]
        assert params == expected
        assert sum(b[role]["params"] for b in made["blocks"]) == made[role]["params"]
        assert sum(b[role]["macs"] for b in made["blocks"]) == made[role]["macs"]
    assert made["img_size"] == [3, 224, 224]
    assert [b["teacher"]["out"] for b in made["blocks"]] == [[64, 56, 56], [128, 28, 28], [256, 14, 14], [1000]]
    assert made["stock"] is True
    assert [(b["seam"] or {}).get("kind") for b in made["blocks"]] == ["identity"] * 3 + [None]


@pytest.mark.parametrize(
    ("teacher", "student"),
    [
        ("timm:resnet50", "timm:mobilenetv3_large_100"),
        ("timm:convnext_tiny", "timm:resnet18"),
        ("timm:vgg16_bn", "timm:resnet18"),
        ("timm:efficientnet_b0", "timm:resnet18"),
        ("timm:regnety_016", "timm:mobilenetv2_100"),
        ("timm:densenet121", "timm:resnet18"),
        ("timm:swin_tiny_patch4_window7_224", "timm:resnet18"),
    ],
)
def test_very_different_families_pair_and_stay_stock(teacher: str, student: str) -> None:
    made = planned(teacher, student)
    assert len(made.blocks) == 4
    assert made.stock
    for block in made.blocks[:-1]:
        assert block.seam is not None
        assert block.seam.kind == "identity" or (block.seam.into and block.seam.folds in ("forward", "backward"))
    for teacher_cut, student_cut in zip(made.teacher.cuts, made.student.cuts, strict=True):
        assert teacher_cut.size == student_cut.size


def test_residual_and_layernorm_at_a_cut_keep_the_adapter_and_the_plan_says_so() -> None:
    made = planned("timm:deit_small_patch16_224", "timm:deit_tiny_patch16_224", 32)
    assert len(made.blocks) == 4
    assert not made.stock
    blockers = [block.seam.blocker for block in made.blocks if block.seam is not None]
    assert all(blocker is not None and "norm1" in blocker and "add" in blocker for blocker in blockers)


@pytest.mark.parametrize("count", [2, 3, 4, 6])
def test_a_number_of_blocks(count: int) -> None:
    made = planned("torchvision:resnet34", "torchvision:resnet18", 64, blocks_count=count)
    assert len(made.blocks) == count


def test_cuts_by_hand() -> None:
    made = planned(
        "torchvision:resnet34",
        "torchvision:resnet18",
        64,
        split_teacher=["layer1.1", "layer3"],
        split_student=["layer1.0", "layer3"],
    )
    assert [cut.name for cut in made.teacher.cuts] == ["layer1.1", "layer3"]
    assert [cut.name for cut in made.student.cuts] == ["layer1.0", "layer3"]


@pytest.mark.parametrize(
    ("by_hand", "expected"),
    [
        ({"split_teacher": ["layer9"], "split_student": ["layer1"]}, "layer9"),
        ({"split_teacher": ["layer2", "layer1"], "split_student": ["layer1", "layer2"]}, "does not come after"),
        ({"split_teacher": ["layer1", "layer2"], "split_student": ["layer1"]}, "2 cuts"),
        ({"split_teacher": ["layer1"], "split_student": ["layer2"]}, "16x16"),
        ({"blocks_count": 99}, "--blocks-count is 99"),
    ],
)
def test_what_cannot_be_cut_so_is_refused(by_hand: dict[str, Any], expected: str) -> None:
    with pytest.raises(PairError) as caught:
        planned("torchvision:resnet34", "torchvision:resnet18", 64, **by_hand)
    assert expected in str(caught.value)
    assert caught.value.fix


# ---- what a plan says ----


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return as_json(planned("timm:resnet26", "torchvision:mobilenet_v2"))


def test_the_document_has_the_agreed_form_and_nothing_that_json_does_not_know(document: dict[str, Any]) -> None:
    made = json.loads(json.dumps(document))
    side = {"name", "source", "weights", "params", "macs", "stem", "head"}
    assert made["teacher"].keys() == made["student"].keys() == side
    assert made.keys() == {"teacher", "student", "img_size", "blocks", "stock", "notes"}
    for number, block in enumerate(made["blocks"], 1):
        assert block.keys() == {"index", "teacher", "student", "seam", "same"} and block["index"] == number
        for role in ("teacher", "student"):
            assert block[role].keys() == {"first", "last", "params", "macs", "in", "out"}
    assert made["blocks"][-1]["seam"] is None
    first = made["blocks"][0]
    assert (first["teacher"]["in"], first["student"]["in"]) == ([3, 64, 64], [3, 64, 64])
    assert first["seam"] == {
        "kind": "adapter",
        "folds": "forward",
        "into": ["features.4.conv.0.0"],
        "blocker": None,
    }
    for before, after in pairwise(made["blocks"]):
        assert before["teacher"]["out"] == after["teacher"]["in"]
        assert before["student"]["out"] == after["student"]["in"]


def test_where_the_student_reads_with_a_norm_the_adapter_goes_into_what_made_the_map() -> None:
    made = planned("timm:resnet10t", "timm:swin_tiny_patch4_window7_224", 64)
    seams = [block.seam for block in made.blocks[:-1]]
    assert made.stock
    assert all(seam is not None and seam.folds == "backward" and seam.into for seam in seams)


@pytest.mark.parametrize(
    ("name", "stem", "head"),
    [
        ("torchvision:resnet18", 9_536, 513_000),  # conv1 and bn1; fc
        (
            "timm:mobilenetv3_large_100",
            928,
            2_511_080,
        ),  # conv_stem, bn1 and the unit of stride 2; conv_head, classifier
        (
            "timm:deit_tiny_patch16_224",
            185_664,
            193_000,
        ),  # the patches', the class token's and the positions' embedding
        ("timm:densenet121", 9_536, 1_025_000),
        ("timm:convnext_tiny", 4_896, 770_536),
    ],
)
def test_stem_and_head_are_what_lies_beyond_the_stages(name: str, stem: int, head: int) -> None:
    side = planned(
        name, name, None if "deit" in name else 64
    ).teacher  # positions are counted at the network's own size
    assert (stem_params(side), head_params(side)) == (stem, head)


def test_parameters_are_counted_once_and_all_of_them() -> None:
    for names in (
        ("torchvision:vgg11_bn", "timm:resnet26"),
        ("timm:mobilevit_xxs", "timm:mobilevit_xxs"),
        ("timm:deit_tiny_patch16_224", "timm:deit_tiny_patch16_224"),
    ):
        made = planned(*names)
        for side in ("teacher", "student"):
            blocks, whole = [getattr(block, side) for block in made.blocks], getattr(made, side)
            assert sum(block.params for block in blocks) == whole.params
            assert sum(block.macs for block in blocks) == whole.macs


def test_parameters_that_two_blocks_share_count_in_the_first() -> None:
    module = Plain()
    module.c[3].weight = module.b[3].weight
    made = make(of(module), of(Plain()))
    assert sum(block.teacher.params for block in made.blocks) == made.teacher.params
    assert made.blocks[1].teacher.params - made.blocks[2].teacher.params == 8 * 8 * 9 - (8 * 10 + 10)


def test_a_student_that_is_larger_than_its_teacher_is_noted() -> None:
    small, large = of(resnet(8)), of(resnet(14))
    assert "2.3 times its parameters" in make(small, large).notes[0]
    assert not make(large, small).notes


def test_what_takes_no_part_in_the_answer_is_noted() -> None:
    module = Plain()
    module.spare = nn.Linear(10, 10)
    made = make(of(module), of(Plain()))
    assert made.notes == ("110 parameters of the teacher do not affect its output and are in no block",)


def test_modules_that_are_kept_whole_are_noted_with_their_line() -> None:
    made = make(of(Inside()), of(Plain()))
    assert len(made.notes) == 1
    assert made.notes[0].startswith("1 module of the teacher not traced, for example `b.0`: its code depends")
    assert "odd_networks.py" in made.notes[0]


def test_a_network_that_answers_with_no_numbers_is_planned_and_noted() -> None:
    made = make(of(Overflowing()), of(Plain()))
    assert made.notes == ("the teacher returns NaN or infinity for noise: its cuts are not verified numerically",)


class Overflowing(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * 1e30) * 1e30


# ---- what a plan leaves as it is ----


def test_planning_changes_no_number_and_draws_no_random_one() -> None:
    teacher, student = of(randomise(Plain())), of(randomise(Plain(), seed=1))
    before = [copy.deepcopy(side.module) for side in (teacher, student)]
    state = torch.get_rng_state()
    made = make(teacher, student)
    assert made.teacher.blocks and made.student.blocks
    assert torch.equal(torch.get_rng_state(), state)
    for old, side in zip(before, (teacher, student), strict=True):
        assert same_weights(old, side.module)
        assert not side.module.training


def test_two_plans_of_the_same_networks_are_the_same(document: dict[str, Any]) -> None:
    assert as_json(planned("timm:resnet26", "torchvision:mobilenet_v2")) == document


# ---- networks that are no pair ----


def test_a_network_is_no_student_of_itself() -> None:
    same = of(Plain())
    with pytest.raises(PairError, match="share 20 parameter tensors"):
        make(same, same)
    twin = make(of(Plain()), of(Plain()))
    assert twin.stock and {block.seam.kind for block in twin.blocks if block.seam} == {"identity"}


def test_other_classes_and_other_images_are_refused_with_both_numbers() -> None:
    with pytest.raises(PairError, match=r"the class counts differ: teacher `plain` has 10, student `plain` has 7"):
        make(of(Plain()), of(Plain(7), classes=7))
    with pytest.raises(PairError, match=r"the input sizes differ.*3x32x32.*3x48x32"):
        make(of(Plain()), of(Plain(), size=(3, 48, 32)))


def test_rectangular_images_and_quirky_ones_are_planned_too() -> None:
    made = make(of(Plain(), size=(3, 96, 160)), of(Plain(), size=(3, 96, 160)))
    assert [cut.size for cut in made.teacher.cuts] == [(96, 160), (48, 80)]
    made = make(of(Plain(), size=(3, 37, 51)), of(Plain(), size=(3, 37, 51)))
    assert [cut.size for cut in made.teacher.cuts] == [(37, 51), (19, 26)]
