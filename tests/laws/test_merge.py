"""Merging: laws 3, 4 and 5 over pairs of many families, with adapters far from the identity."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from graftcli.errors import UsageError
from graftcli.graft.surgery.hybrid import Hybrid
from graftcli.graft.surgery.merge import EXACT_LIMIT, ROUNDED_LIMIT, check, merge, merge_hybrid
from graftcli.graft.surgery.seams import Seam, graft, seams
from graftcli.models.cuts.pairing import CutOptions
from graftcli.models.cuts.plan import Plan, count_parameters, make
from tests.nets import same_weights
from tests.pairs import PAIRS, neighbours, network, noise, planned, random_seams


def trained(plan: Plan) -> list[Seam]:
    """Random seams as they are after training: adapters only where the channels differ."""
    found = seams(plan)
    for seam, adapted in zip(found, random_seams(plan), strict=True):
        if list(seam.parameters()):
            seam.load_state_dict(adapted.state_dict())
    return found


def whole(plan: Plan) -> range:
    return range(1, len(plan.blocks) + 1)


def keys(module: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


# -- the whole student --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAIRS)
def test_the_merged_student_is_stock_and_answers_as_the_unmerged_one(name: str) -> None:
    plan, stock = planned(name), PAIRS[name].student().module
    joined = trained(plan)
    merged = merge(plan, joined)
    exact, rounded = check(merged, graft(plan, joined, whole(plan)), noise(plan))
    assert exact <= EXACT_LIMIT
    assert rounded <= ROUNDED_LIMIT
    assert merged.stock is plan.stock is PAIRS[name].stock
    if merged.stock:
        assert (merged.kept, merged.facts) == ((), None)
        assert keys(merged.module) == keys(stock)
        assert type(merged.module) is type(stock)
        assert (merged.params, merged.macs) == (count_parameters(stock), plan.student.macs)
        stock.load_state_dict(merged.module.state_dict(), strict=True)
        assert torch.equal(stock(noise(plan)), merged.module(noise(plan)))


@pytest.mark.parametrize("name", [name for name in PAIRS if PAIRS[name].stock and "option A" not in name])
def test_adapters_fold_also_where_the_channels_agree(name: str) -> None:
    plan = planned(name)
    joined = random_seams(plan)
    merged = merge(plan, joined)
    check(merged, graft(plan, joined, whole(plan)), noise(plan))
    assert merged.stock
    assert {fold.cut for fold in merged.folded} == set(range(1, len(plan.blocks)))
    for seam, block in zip(joined, plan.blocks, strict=False):
        folds = [fold for fold in merged.folded if fold.cut == block.index]
        ways = {"forward": seam.student_cut.forwards, "backward": seam.student_cut.backwards}
        assert [fold.path for fold in folds] == [f"student.{layer.path}" for layer in ways[folds[0].direction].layers]


def test_an_adapter_without_a_layer_to_go_into_stays_and_is_one_for_two() -> None:
    plan = planned("resnet for small images, option A")
    joined = random_seams(plan)
    merged = merge(plan, joined)
    check(merged, graft(plan, joined, whole(plan)), noise(plan))
    assert not merged.stock
    assert isinstance(merged.module, Hybrid)
    assert [(kept.cut, kept.adapter, kept.shape) for kept in merged.kept] == [
        (1, "both", (16, 16)),
        (2, "both", (32, 32)),
    ]
    assert all("pad" in kept.reason and "relu" in kept.reason for kept in merged.kept)
    assert merged.params == count_parameters(plan.student.network.module) + 16 * 16 + 32 * 32
    assert merged.unmerged_params == merged.params + 16 * 16 + 32 * 32
    assert merged.unmerged_macs - merged.macs == 16 * 16 * 32 * 32 + 32 * 32 * 16 * 16  # one 1x1 less at each cut


def test_what_a_batchnorm_divides_by_is_folded_and_its_keys_stay() -> None:
    plan = planned("resnet, dla")
    merged = merge(plan, trained(plan))
    folded = merged.folded[0]
    assert (folded.path, folded.direction) == ("student.level3.tree2.root.conv", "backward")
    assert folded.batchnorm == "level3.tree2.root.bn"
    norm = merged.module.get_submodule(folded.batchnorm)
    assert isinstance(norm, nn.BatchNorm2d)
    torch.testing.assert_close(norm.weight.detach(), torch.full((64,), (1 + norm.eps) ** 0.5))


def test_a_flattened_map_is_read_by_a_linear_layer_that_takes_the_adapter_in() -> None:
    plan = planned("vgg with a flattened map")
    assert plan.student.cuts[-1].forwards.layers[0].repeat == 16
    merged = merge(plan, trained(plan))
    assert merged.folded[-1].path == "student.classifier.0"


# -- hybrids ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAIRS)
def test_a_merged_hybrid_answers_as_the_unmerged_one_and_is_not_larger(name: str) -> None:
    plan = planned(name)
    joined = random_seams(plan)
    for blocks in neighbours(len(plan.blocks)):
        merged, unmerged = merge_hybrid(plan, joined, blocks), graft(plan, joined, blocks)
        check(merged, unmerged, noise(plan))
        assert not merged.stock
        assert merged.params == count_parameters(merged.module) <= merged.unmerged_params == count_parameters(unmerged)
        assert merged.macs <= merged.unmerged_macs
        assert {fold.cut for fold in merged.folded}.isdisjoint(
            kept.cut for kept in merged.kept if kept.adapter == "both"
        )
        assert len(merged.folded) + len(merged.kept) > 0


def test_an_adapter_that_would_make_a_hybrid_larger_stays() -> None:
    plan = planned("resnet bottleneck, basic")
    merged = merge_hybrid(plan, random_seams(plan), {2})
    (kept,) = merged.kept
    # layer2.0.conv1 (3x3) and its shortcut (1x1) would read 256 channels for 64 and write 8x8, the adapter reads 16x16
    more = (256 - 64) * 128 * (9 + 1)
    growth = f"{more - 256 * 64:+,} parameters and {more * 8 * 8 - 256 * 64 * 16 * 16:+,} multiply-adds"
    assert kept.reason == f"folding would change the network by {growth}"
    assert (kept.cut, kept.adapter, kept.shape) == (1, "to_student", (64, 256))
    assert [fold.path for fold in merged.folded] == ["teacher.layer3.0.conv1", "teacher.layer3.0.downsample.0"]
    assert merged.unmerged_params - merged.params == 512 * 128 + (512 - 128) * (256 + 1024)


def test_a_hybrid_of_all_blocks_is_the_merged_student_and_one_of_none_the_teacher() -> None:
    plan = planned("vgg with a flattened map")
    joined = random_seams(plan)
    assert same_weights(merge_hybrid(plan, joined, {4, 3, 2, 1}).module, merge(plan, joined).module)
    nothing = merge_hybrid(plan, joined, ())
    assert torch.equal(nothing.module(noise(plan)), plan.teacher.network.module(noise(plan)))
    with pytest.raises(UsageError, match="blocks 1 to 4, not 5"):
        merge_hybrid(plan, joined, {5})


class TwoPools(nn.Module):
    """A student whose third block has no layer of its own: the adapter at its end cannot go past that at its start."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.first = nn.Sequential(nn.Conv2d(6, 6, 3, stride=2, padding=1), nn.ReLU())
        self.second = nn.AvgPool2d(2)
        self.third = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.head = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.head(self.third(self.second(self.first(self.stem(images)))))
        return result


def test_a_layer_beyond_the_next_block_takes_no_adapter_in() -> None:
    names = ("first", "second")
    teacher, student = (network(TwoPools, name, 32) for name in ("one", "another"))
    plan = make(teacher, student, CutOptions(teacher=names, student=names))
    joined = random_seams(plan)
    merged = merge(plan, joined)
    check(merged, graft(plan, joined, whole(plan)), noise(plan))
    assert [(kept.cut, kept.reason.partition(";")[0]) for kept in merged.kept] == [
        (1, "`third` is not in the adjacent block")
    ]
    for blocks in neighbours(3):
        check(merge_hybrid(plan, joined, blocks), graft(plan, joined, blocks), noise(plan))


# -- nothing of the caller's changes ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet, dla", "swin, resnet", "mobilevit, some modules kept whole"])
def test_merging_changes_none_of_the_callers_modules(name: str) -> None:
    plan = planned(name)
    joined = random_seams(plan)
    held = nn.ModuleList([plan.teacher.network.module, plan.student.network.module, *joined])
    before = copy.deepcopy(held)
    merged = merge(plan, joined)
    hybrid = merge_hybrid(plan, joined, {2})
    check(merged, graft(plan, joined, whole(plan)), noise(plan))
    for module in (merged.module, merged.exact, hybrid.module, hybrid.exact):
        for parameter in module.parameters():
            parameter.data.zero_()
    assert same_weights(held, before)
    assert all(tensor.dtype != torch.float64 for tensor in held.parameters())
    assert [module.training for module in held.modules()] == [module.training for module in before.modules()]


def test_a_student_that_was_left_in_train_mode_is_merged_in_eval_mode() -> None:
    pair = PAIRS["resnet for small images, option A"]
    plan = make(pair.teacher(), pair.student())
    joined = trained(plan)
    plan.student.network.module.train()
    before = copy.deepcopy(plan.student.network.module)
    merged = merge(plan, joined)
    check(merged, graft(plan, joined, whole(plan)), noise(plan))
    assert not any(module.training for module in merged.module.modules())
    assert plan.student.network.module.training
    assert same_weights(plan.student.network.module, before)


def test_what_is_written_has_plain_strides_whatever_the_networks_were_trained_in() -> None:
    pair = PAIRS["regnetx"]
    plan = make(pair.teacher(), pair.student())
    for side in (plan.teacher, plan.student):
        side.network.module.to(memory_format=torch.channels_last)
    for merged in (merge(plan, random_seams(plan)), merge_hybrid(plan, random_seams(plan), {2})):
        for tensor in merged.module.state_dict().values():
            assert tensor.stride() == torch.empty(tensor.shape).stride()


# -- a fresh process ----------------------------------------------------------------------------------------------

LOAD = """
import sys
sys.modules["graftcli"] = None
import torch, timm
from pathlib import Path
from safetensors.torch import load_file
here = Path(sys.argv[1])
torch.set_num_threads(int(sys.argv[2]))  # other threads add up the same numbers in another order
network = timm.create_model("resnet10t", num_classes=10).eval()
network.load_state_dict(load_file(here / "student.safetensors"), strict=True)
seen = load_file(here / "seen.safetensors")
with torch.no_grad():
    assert torch.equal(network(seen["images"]), seen["logits"]), "other answers"
"""


def test_the_merged_student_loads_into_stock_timm_in_a_process_without_graftcli(tmp_path: Path) -> None:
    plan = planned("resnet bottleneck, basic")
    merged = merge(plan, trained(plan))
    images = noise(plan)
    with torch.no_grad():
        seen = {"images": images, "logits": merged.module(images)}
    save_file(merged.module.state_dict(), tmp_path / "student.safetensors")
    save_file(seen, tmp_path / "seen.safetensors")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD, str(tmp_path), str(torch.get_num_threads())],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
