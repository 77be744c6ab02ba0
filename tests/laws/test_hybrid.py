"""Hybrids: their keys, their facts, and that they can be made again, copied, pickled and exported."""

import copy
import json
import pickle
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graftcli.errors import PairError
from graftcli.graft.surgery.hybrid import Hybrid, Joint, rebuild
from graftcli.graft.surgery.merge import Merged, check, merge, merge_hybrid
from graftcli.graft.surgery.seams import Adapter, Relayout, graft
from graftcli.models.cuts.pairing import CutOptions
from graftcli.models.cuts.plan import Side, count_parameters, make
from graftcli.models.cuts.positions import positions
from tests.nets import same_weights
from tests.pairs import PAIRS, neighbours, network, noise, planned, random_seams


def hybrid_of(name: str, blocks: set[int]) -> Merged:
    return merge_hybrid(planned(name), random_seams(planned(name)), blocks)


def again(name: str, merged: Merged) -> Hybrid:
    """The hybrid, made of new networks and what can be written to a file."""
    facts = json.loads(json.dumps(merged.facts))
    found = rebuild(PAIRS[name].teacher(), PAIRS[name].student().module, facts)
    found.load_state_dict(merged.module.state_dict(), strict=True)
    return found


def held(module: nn.Module) -> dict[str, set[str]]:
    """The keys by where they come from."""
    keys = list(module.state_dict())
    return {
        part: {k.partition(".")[2] for k in keys if k.startswith(f"{part}.")}
        for part in ("teacher", "student", "seams")
    }


def keys_of(block: nn.Module) -> set[str]:
    return set(block.state_dict())


@pytest.mark.parametrize("name", PAIRS)
@torch.no_grad()
def test_a_hybrid_is_made_again_from_its_facts_with_the_same_bits(name: str) -> None:
    for blocks in ({1}, {2}, {2, 3}) if "dla" in name or "swin" in name else ({2},):
        merged = hybrid_of(name, blocks)
        other = again(name, merged)
        assert other.state_dict().keys() == merged.module.state_dict().keys()
        assert torch.equal(other(noise(planned(name), 3)), merged.module(noise(planned(name), 3)))


@pytest.mark.parametrize("name", ["regnetx", "swin, resnet", "deit", "mobilevit, some modules kept whole"])
def test_the_keys_say_where_each_tensor_comes_from_and_nothing_unused_is_held(name: str) -> None:
    plan = planned(name)
    for blocks in neighbours(len(plan.blocks)):
        merged = hybrid_of(name, blocks)
        found = held(merged.module)
        assert sum(map(len, found.values())) == len(merged.module.state_dict())
        for role, side in (("teacher", plan.teacher), ("student", plan.student)):
            own = [block for k, block in enumerate(side.blocks, 1) if (k in blocks) is (role == "student")]
            assert found[role] == set().union(*map(keys_of, own))
        assert found["seams"] == {f"{kept.cut}.{kept.adapter}.weight" for kept in merged.kept}


def test_the_facts_are_plain_json_and_name_what_changed_its_shape() -> None:
    facts = hybrid_of("resnet bottleneck, basic", {2}).facts
    assert facts == json.loads(json.dumps(facts))
    assert facts is not None
    assert facts["blocks"] == ["teacher", "student", "teacher", "teacher"]
    assert facts["cuts"]["student"][0] == {"name": "layer1", "which": 0, "shape": [64, 16, 16], "layout": "NCHW"}
    assert facts["reshaped"] == {
        "teacher.layer3.0.conv1": [256, 128, 1, 1],
        "teacher.layer3.0.downsample.0": [1024, 128, 1, 1],
    }
    (seam,) = facts["seams"]
    assert (seam["cut"], seam["name"], seam["shape"]) == (1, "to_student", [64, 256])


def test_a_batchnorm_is_as_wide_as_the_layer_that_took_an_adapter_in() -> None:
    facts = hybrid_of("dla, mobilenet_v2", {2}).facts
    assert facts is not None
    assert facts["reshaped"]["teacher.level2.root.conv"][0] == 24
    assert facts["reshaped"]["teacher.level2.root.bn"] == [24]


def test_a_folded_adapter_between_two_layouts_leaves_the_layout_change() -> None:
    merged = hybrid_of("swin, resnet", {len(planned("swin, resnet").blocks)})
    assert (merged.kept, held(merged.module)["seams"]) == ((), set())
    seams = [module for module in merged.module.modules() if isinstance(module, Relayout)]
    assert [(seam.source, seam.target) for seam in seams] == [("NHWC", "NCHW")]


@torch.no_grad()
def test_a_student_whose_adapters_stay_is_made_again_without_the_teacher() -> None:
    name = "deit"
    plan = planned(name)
    merged = merge(plan, random_seams(plan))
    assert held(merged.module)["teacher"] == set()
    other = rebuild(None, PAIRS[name].student(), json.loads(json.dumps(merged.facts)))
    other.load_state_dict(merged.module.state_dict(), strict=True)
    assert torch.equal(other(noise(plan)), merged.module(noise(plan)))


@pytest.mark.parametrize("name", ["resnet, dla", "swin, resnet", "deit", "mobilevit, some modules kept whole"])
@torch.no_grad()
def test_a_hybrid_can_be_copied_pickled_and_made_double(name: str) -> None:
    module, images = hybrid_of(name, {2}).module, noise(planned(name))
    expected = module(images)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert isinstance(other, Hybrid)
        assert same_weights(other, module)
        assert torch.equal(other(images), expected)
        other.double()
        torch.testing.assert_close(
            other(images.double()), expected.double(), rtol=1e-3, atol=1e-3 * float(expected.abs().max())
        )
    assert torch.equal(module(images), expected)


@pytest.mark.parametrize("name", ["resnet for small images, option A", "swin, resnet"])
@torch.no_grad()
def test_a_hybrid_can_be_exported(name: str) -> None:
    module, images = hybrid_of(name, {2}).module, noise(planned(name))
    exported = torch.export.export(module, (images,))
    torch.testing.assert_close(exported.module()(images), module(images))


def test_a_hybrid_has_modules_of_its_own() -> None:
    plan = planned("regnetx")
    module = hybrid_of("regnetx", {2}).module
    originals = {id(p) for net in (plan.teacher.network, plan.student.network) for p in net.module.parameters()}
    assert originals.isdisjoint(id(p) for p in module.parameters())


class Twice(nn.Module):
    """A network that runs one layer at two of its places: two cuts then have one name."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.first = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.second = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.third = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm(self.first(self.stem(images)).relu())
        x = self.norm(self.second(x).relu())
        result: Tensor = self.head(self.third(x).relu().mean((2, 3)))
        return result


def norms(side: Side) -> Side:
    """The same network, cut at both places of the name `norm`."""
    return Side(side.network, side.traced, tuple(p for p in positions(side.traced) if p.name == "norm"))


@torch.no_grad()
def test_two_cuts_of_one_name_stay_apart_and_shared_modules_stay_shared() -> None:
    teacher, student = (network(lambda: Twice(8), "wide", 32), network(lambda: Twice(6), "narrow", 32))
    plan = make(teacher, student, CutOptions(teacher=("first", "second"), student=("first", "second")))
    plan = replace(plan, teacher=norms(plan.teacher), student=norms(plan.student))
    joined = random_seams(plan)
    for blocks in neighbours(3):
        merged = merge_hybrid(plan, joined, blocks)
        check(merged, graft(plan, joined, blocks), noise(plan))
        assert merged.facts is not None
        assert [cut["which"] for cut in merged.facts["cuts"]["teacher"]] == [0, 1]
        other = rebuild(teacher, student, json.loads(json.dumps(merged.facts)))
        other.load_state_dict(merged.module.state_dict(), strict=True)
        assert torch.equal(other(noise(plan)), merged.module(noise(plan)))
    shared = merge_hybrid(plan, joined, {1, 2}).module
    assert sum(isinstance(module, nn.BatchNorm2d) for module in shared.modules()) == 1
    assert count_parameters(shared) == sum(tensor.numel() for tensor in shared.parameters())


def without(facts: object, **changes: object) -> Any:
    """The facts with the first cut of the student changed."""
    other = json.loads(json.dumps(facts))
    other["cuts"]["student"][0].update(changes)
    return other


def test_networks_that_are_not_those_of_the_facts_are_refused() -> None:
    pair, merged = PAIRS["regnetx"], hybrid_of("regnetx", {2})
    networks = (pair.teacher(), pair.student())
    with pytest.raises(PairError, match=re.escape("cut 1 of the student, `stage1`, does not exist in this student.")):
        rebuild(*networks, without(merged.facts, name="stage1"))
    with pytest.raises(
        PairError, match=re.escape("`s1`, was NCHW of 32x16x16; in this student it is NCHW of 24x16x16.")
    ):
        rebuild(*networks, without(merged.facts, shape=[32, 16, 16]))
    assert merged.facts is not None
    with pytest.raises(PairError, match="contains blocks of the teacher") as refused:
        rebuild(None, networks[1], merged.facts)
    assert refused.value.exit_code == 3


def test_a_joint_makes_its_module() -> None:
    adapter = Joint(2, "to_teacher", "NHWC", "tokens", (4, 5), (7, 3)).empty()
    assert isinstance(adapter, Adapter)
    assert adapter(torch.zeros(2, 4, 5, 3)).shape == (2, 20, 7)
    assert type(Joint(2, "to_teacher", "NHWC", "NCHW", (4, 5), None).empty()) is Relayout
