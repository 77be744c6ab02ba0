"""The check after a merge refuses what differs by more than rounding."""

import copy
import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from graftcli.errors import GateError
from graftcli.graft.surgery.merge import Merged, check, merge
from graftcli.graft.surgery.seams import graft
from tests.pairs import noise, planned, random_seams


@pytest.fixture(scope="module")
def vgg() -> tuple[Merged, nn.Module, Tensor]:
    plan = planned("vgg with a flattened map")
    joined = random_seams(plan)
    return merge(plan, joined), graft(plan, joined, {1, 2, 3, 4}), noise(plan, 11)


def spoilt(module: nn.Module, by: float) -> nn.Module:
    other = copy.deepcopy(module)
    other.get_parameter("classifier.3.weight").data.mul_(1 + by)
    return other


def test_the_gate_says_how_large_the_differences_are(vgg: tuple[Merged, nn.Module, Tensor]) -> None:
    merged, unmerged, images = vgg
    exact, rounded = check(merged, unmerged, images)
    assert 0 < exact < 1e-13
    assert 1e-9 < rounded < 1e-5
    with torch.no_grad():
        expected = copy.deepcopy(unmerged).double()(images.double())
        difference = (merged.module(images) - expected).abs().max() / expected.abs().max()
    assert rounded == pytest.approx(float(difference), rel=0.5)


def test_a_merge_with_other_adapters_is_refused(vgg: tuple[Merged, nn.Module, Tensor]) -> None:
    plan = planned("vgg with a flattened map")
    with pytest.raises(
        GateError, match=r"in float64 by .* of the largest logit, where rounding explains at most 1e-09"
    ):
        check(merge(plan, random_seams(plan, seed=5)), vgg[1], vgg[2])


def test_the_smallest_errors_past_rounding_are_refused(vgg: tuple[Merged, nn.Module, Tensor]) -> None:
    merged, unmerged, images = vgg
    check(replace(merged, exact=spoilt(merged.exact, 1e-11)), unmerged, images)
    with pytest.raises(GateError, match="float64") as refused:
        check(replace(merged, exact=spoilt(merged.exact, 1e-8)), unmerged, images)
    assert refused.value.exit_code == 4
    assert "Nothing was written" in refused.value.fix
    with pytest.raises(GateError, match="float32"):
        check(replace(merged, module=spoilt(merged.module, 1e-3)), unmerged, images)


def test_an_error_on_one_image_alone_is_found(vgg: tuple[Merged, nn.Module, Tensor]) -> None:
    merged, unmerged, images = vgg
    off = copy.deepcopy(merged.exact)
    off.register_forward_hook(lambda module, inputs, logits: logits + (inputs[0][:, :1, 0, 0] == images[-1, 0, 0, 0]))
    with pytest.raises(GateError, match="float64"):
        check(replace(merged, exact=off), unmerged, images)


def test_non_finite_logits_are_refused_on_either_side(vgg: tuple[Merged, nn.Module, Tensor]) -> None:
    merged, unmerged, images = vgg
    with pytest.raises(GateError, match="in float64 by nan"):
        check(replace(merged, exact=spoilt(merged.exact, float("nan"))), unmerged, images)
    lost = copy.deepcopy(unmerged)
    next(iter(lost.parameters())).data.fill_(float("nan"))
    with pytest.raises(GateError, match=r"training diverged: .* gives logits that are not finite") as refused:
        check(merged, lost, images)
    assert "lower learning rate" in refused.value.fix


@pytest.mark.parametrize(("factor", "largest"), [(1e5, "e+"), (1e25, "inf")])
def test_huge_logits_are_reported_as_diverged_training(
    vgg: tuple[Merged, nn.Module, Tensor], factor: float, largest: str
) -> None:
    merged, unmerged, images = vgg
    huge = copy.deepcopy(unmerged)
    for name, weight in huge.named_parameters():
        if name.endswith(("classifier.0.weight", "classifier.3.weight")):
            weight.data.mul_(factor)
    with pytest.raises(GateError, match=rf"training diverged: .* logits up to .*{re.escape(largest)}") as refused:
        check(merged, huge, images)
    assert "--set stages.NAME.lr" in refused.value.fix and "report" not in refused.value.fix
