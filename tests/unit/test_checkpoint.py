"""Weights are found in real checkpoints' shapes, matched whatever wrapped them, and loaded whole or not at all."""

from argparse import Namespace
from collections import OrderedDict
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from graftcli.errors import CheckpointError
from graftcli.models.loading.checkpoint import TensorState, architecture, find_state, infer, load_into, match, refusal
from tests.nets import randomise, resnet, same_weights


def load(saved: object, module: nn.Module, ema: bool | None = None) -> nn.Module:
    matched = match(find_state(saved, "w.pth", ema), module)
    if not matched.complete:
        raise refusal(matched, "w.pth", "net")
    load_into(module, matched, "w.pth")
    return module


# where the weights are


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "net", "student"])
def test_weights_are_found_under_the_names_that_people_use(key: str) -> None:
    net = randomise(resnet(8))
    saved = {"epoch": 3, key: net.state_dict(), "optimizer": {"state": {0: {"momentum": torch.zeros(3)}}}, "best": 0.9}
    assert same_weights(load(saved, resnet(8)), net)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda net: net.state_dict(),
        lambda net: net,
        lambda net: {"model": net, "best_acc1": torch.tensor(0.5)},
        lambda net: {"model": {"state_dict": net.state_dict()}},
        lambda net: {"weights_of_my_own": net.state_dict(), "epoch": 1},
        lambda net: {**net.state_dict(), "epoch": 1},
    ],
    ids=["bare", "module", "module in a dict", "nested", "own name", "loose"],
)
def test_weights_are_found_in_every_container(wrap: Any) -> None:
    net = randomise(resnet(8))
    assert same_weights(load(wrap(net), resnet(8)), net)


@pytest.mark.parametrize("key", ["ema", "state_dict_ema", "model_ema"])
def test_the_user_chooses_between_raw_and_averaged_weights(key: str) -> None:
    plain, averaged = randomise(resnet(8), 1), randomise(resnet(8), 2)
    saved = {"state_dict": plain.state_dict(), key: averaged.state_dict()}
    with pytest.raises(CheckpointError, match=f"`state_dict` and the averaged `{key}`") as caught:
        find_state(saved)
    assert "--ema" in caught.value.fix and "--no-ema" in caught.value.fix
    assert same_weights(load(saved, resnet(8), ema=True), averaged)
    assert same_weights(load(saved, resnet(8), ema=False), plain)


def test_averaged_weights_alone_need_no_flag() -> None:
    averaged = torch.optim.swa_utils.AveragedModel(randomise(resnet(8)))
    assert same_weights(load({"model_ema": averaged.state_dict(), "epoch": 1}, resnet(8)), averaged.module)


def test_requested_averaged_weights_that_are_missing_are_refused() -> None:
    for saved in ({"state_dict": resnet(8).state_dict()}, resnet(8).state_dict()):
        with pytest.raises(CheckpointError, match="holds no averaged weights"):
            find_state(saved, ema=True)
    with pytest.raises(CheckpointError, match="only averaged weights"):
        find_state({"ema": resnet(8).state_dict()}, ema=False)


@pytest.mark.parametrize("saved", [{}, {"epoch": 3, "note": "x"}, [1, 2], torch.zeros(3), None])
def test_an_object_without_weights_is_refused_with_its_content(saved: object) -> None:
    with pytest.raises(CheckpointError, match="holds no weights"):
        find_state(saved)


@pytest.mark.parametrize(
    "saved",
    [
        {"arch": "resnet18", "state_dict": {}},
        {"model_name": "resnet18"},
        {"model": {}, "args": Namespace(model="resnet18", lr=0.1)},
        {"args": {"arch": "resnet18"}},
        {"cfg": {"model": {"name": "resnet18"}}},
    ],
)
def test_a_checkpoint_may_name_its_architecture(saved: object) -> None:
    assert architecture(saved) == "resnet18"


def test_a_checkpoint_may_lack_the_name_of_its_architecture() -> None:
    assert architecture({"state_dict": {}, "args": Namespace(lr=0.1)}) is None
    assert architecture([1]) is None


# names and shapes


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "model.",
        "_orig_mod.",
        "backbone.",
        "encoder.",
        "module._orig_mod.",
        "module.model.backbone.",
        "model.model.",
    ],
)
def test_prefixes_are_removed_where_that_makes_the_names_match(prefix: str) -> None:
    net = randomise(resnet(8))
    saved = {"state_dict": OrderedDict((prefix + key, value) for key, value in net.state_dict().items())}
    assert same_weights(load(saved, resnet(8)), net)


@pytest.mark.parametrize("prefix", ["net.", "student.", "net.backbone.", "lightning.wrapped.model.", "conv1."])
def test_a_prefix_that_all_names_share_is_removed_too(prefix: str) -> None:
    net = randomise(resnet(8))
    saved = {**{prefix + key: value for key, value in net.state_dict().items()}, "n_averaged": torch.tensor(5)}
    assert same_weights(load(saved, resnet(8)), net)
    other = match(TensorState({**saved, "loss.weight": torch.zeros(3)}), resnet(8))
    assert not other.complete


def test_the_classes_of_a_checkpoint_show_behind_a_shared_prefix() -> None:
    saved = {f"net.{key}": value for key, value in resnet(8, num_classes=7).state_dict().items()}
    assert infer(match(TensorState(saved), resnet(8)), 10, 3) == (7, None)


def test_prefixes_may_differ_from_key_to_key() -> None:
    net = randomise(resnet(8))
    saved = {key if key.startswith("linear") else f"backbone.{key}": value for key, value in net.state_dict().items()}
    assert same_weights(load(saved, resnet(8)), net)


def test_a_network_whose_own_names_begin_like_a_prefix_keeps_them() -> None:
    net = randomise(torchvision.models.VisionTransformer(32, 16, 2, 2, 8, 16))
    wrapped = {f"module.{key}": value for key, value in net.state_dict().items()}
    assert any(key.startswith("encoder.") for key in net.state_dict())
    for saved in (net.state_dict(), wrapped):
        assert same_weights(load(saved, torchvision.models.VisionTransformer(32, 16, 2, 2, 8, 16)), net)


def test_weights_behind_real_wrappers_are_found() -> None:
    net = randomise(timm.create_model("resnet10t", num_classes=5))
    whole = nn.DataParallel(torch.compile(net)).state_dict()  # type: ignore[type-var]
    assert all(key.startswith("module._orig_mod.") for key in whole)
    assert same_weights(load(whole, timm.create_model("resnet10t", num_classes=5)), net)
    partly = {key.replace("layer1.", "layer1._orig_mod."): value for key, value in net.state_dict().items()}
    assert same_weights(load(partly, timm.create_model("resnet10t", num_classes=5)), net)


def test_two_keys_of_one_name_are_not_mixed() -> None:
    net, other = randomise(resnet(8), 1), randomise(resnet(8), 2)
    saved = {**{f"model.{key}": value for key, value in other.state_dict().items()}, **net.state_dict()}
    matched = match(TensorState(saved), resnet(8))
    assert torch.equal(matched.tensors["conv1.weight"], net.conv1.weight)
    assert "model.conv1.weight" in matched.extra and not matched.complete


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_loaded_in_the_networks_own(dtype: torch.dtype) -> None:
    net = randomise(resnet(8))
    got = load({key: v.to(dtype) if v.is_floating_point() else v for key, v in net.state_dict().items()}, resnet(8))
    for key, tensor in got.state_dict().items():
        assert tensor.dtype == resnet(8).state_dict()[key].dtype
        assert torch.equal(tensor, net.state_dict()[key].to(dtype).to(tensor.dtype))


def test_counters_that_old_checkpoints_lack_and_profilers_leave_are_no_fault() -> None:
    net = randomise(resnet(8))
    saved = {key: value for key, value in net.state_dict().items() if not key.endswith("num_batches_tracked")}
    matched = match(
        TensorState({**saved, "layer1.0.total_ops": torch.zeros(1), "n_averaged": torch.tensor(5)}), resnet(8)
    )
    assert matched.complete
    assert matched.count == matched.total == len(saved)


def test_a_smaller_network_with_the_same_names_is_refused_for_what_is_left_over() -> None:
    matched = match(TensorState(resnet(14).state_dict()), resnet(8))
    assert matched.count == matched.total and not matched.complete
    assert matched.extra["layer1.1.conv1.weight"].shape == (16, 16, 3, 3)
    message = refusal(matched, "r14.pth", "resnet").message
    assert f"{matched.total} of its {matched.total} tensors match, {len(matched.extra)} of the file" in message
    assert "the network is shallower" in message


def test_a_network_that_is_deeper_than_its_checkpoint_is_refused() -> None:
    message = refusal(match(TensorState(resnet(8).state_dict()), resnet(14)), "r8.pth", "resnet").message
    assert "that is all of the file: the network is deeper" in message


def test_a_refusal_shows_both_lists_with_shapes() -> None:
    saved = dict(resnet(8).state_dict())
    saved["mine.weight"] = saved.pop("conv1.weight")
    saved["linear.weight"] = torch.zeros(10, 32)
    saved["bn1.bias"] = torch.zeros(16, dtype=torch.int8)
    matched = match(TensorState(saved), resnet(8))
    message = str(refusal(matched, "w.pth", "resnet8"))
    assert f"{matched.total - 3} of its {matched.total} tensors" in message
    assert "In the network only: conv1.weight (16x3x3x3)." in message
    assert "In the checkpoint only: mine.weight (16x3x3x3)." in message
    assert "linear.weight (network 10x64, checkpoint 10x32)" in message
    assert "bn1.bias (network 16, checkpoint 16 int8)" in message


def test_numbers_that_are_not_finite_are_refused() -> None:
    saved = dict(resnet(8).state_dict())
    saved["bn1.running_var"] = torch.full((16,), 1e6).half()  # what saving in half precision does to large statistics
    with pytest.raises(CheckpointError, match=r"`bn1.running_var` in `w.pth` holds NaN or infinity in 16 of 16 values"):
        load(saved, resnet(8))


@pytest.mark.parametrize("odd", [torch.zeros(16).to_sparse(), torch.zeros(16, device="meta")], ids=["sparse", "meta"])
def test_tensors_that_hold_no_plain_numbers_are_refused(odd: Tensor) -> None:
    with pytest.raises(
        CheckpointError, match=r"Different shapes: bn1.bias \(network 16, checkpoint 16 (sparse|without)"
    ):
        load({**resnet(8).state_dict(), "bn1.bias": odd}, resnet(8))


# what a checkpoint was made for


def test_class_count_and_channels_are_inferred() -> None:
    mine = timm.create_model("resnet10t", num_classes=7, in_chans=1)
    matched = match(TensorState(mine.state_dict()), timm.create_model("resnet10t"))
    assert infer(matched, 1000, 3) == (7, 1)
    assert infer(match(TensorState(mine.state_dict()), mine), 7, 1) == (None, None)


def test_stems_that_fold_pixels_into_channels_are_understood() -> None:
    mine = timm.create_model("tresnet_m", num_classes=3, in_chans=1)
    assert infer(match(TensorState(mine.state_dict()), timm.create_model("tresnet_m")), 1000, 3) == (3, 1)


def test_nothing_is_inferred_from_another_network() -> None:
    other = torchvision.models.squeezenet1_1(num_classes=10)
    assert infer(match(TensorState(other.state_dict()), torchvision.models.squeezenet1_0()), 1000, 3) == (None, None)
    thin, wide = (nn.Sequential(nn.Conv2d(3, n, 1), nn.Conv2d(n, 5, 1), nn.Linear(5, 9)) for n in (12, 24))
    assert infer(match(TensorState(wide.state_dict()), thin), 9, 3) == (None, None)


def test_a_classifier_that_only_the_checkpoint_has_is_understood() -> None:
    bare, mine = (timm.create_model("resnet10t", num_classes=n, in_chans=c) for n, c in ((0, 3), (7, 1)))
    assert infer(match(TensorState(mine.state_dict()), bare), 512, 3) == (7, 1)
    two = {**mine.state_dict(), "other.weight": torch.zeros(7, 512)}
    assert infer(match(TensorState(two), bare), 512, 3) == (None, None)


def test_a_dict_that_holds_itself_is_refused() -> None:
    saved: dict[str, Any] = {"epoch": 1}
    saved["model"] = saved
    with pytest.raises(CheckpointError, match="holds no weights"):
        find_state(saved)
