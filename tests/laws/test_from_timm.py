"""timm's networks are built as requested, else as their weights were made, and rebuilt the same."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from graftcli.errors import CheckpointError, PairError
from graftcli.models.loading.build import build, rebuild
from tests.nets import randomise, same_weights

SIZES = [
    ("resnet10t", 48),
    ("vit_tiny_patch16_224", 64),
    ("swin_tiny_patch4_window7_224", 112),
    ("deit3_small_patch16_224", 64),
]


@pytest.mark.parametrize(("name", "size"), [*SIZES, ("levit_128s", 96), ("coatnet_pico_rw_224", 96), ("tresnet_m", 64)])
def test_a_network_runs_on_the_images_it_is_built_for(name: str, size: int) -> None:
    net = build(f"timm:{name}", checkpoint="none", num_classes=5, in_chans=1, img_size=size)
    assert (net.num_classes, net.input_size, net.source) == (5, (1, size, size), "timm")
    assert net.weights.is_random
    assert len(net.preprocess.mean) == len(net.preprocess.std) == 1
    assert not net.module.training
    with torch.no_grad():
        assert net.module(torch.zeros(1, *net.input_size)).shape == (1, 5)
    again = rebuild(json.loads(json.dumps(net.origin)))
    assert {key: value.shape for key, value in again.state_dict().items()} == {
        key: value.shape for key, value in net.module.state_dict().items()
    }


def test_settings_are_those_of_the_weights() -> None:
    net = build("timm:vit_small_patch16_384.augreg_in1k", checkpoint="none")
    assert (net.input_size, net.num_classes) == ((3, 384, 384), 1000)
    assert (net.preprocess.mean, net.preprocess.crop_pct, net.preprocess.interpolation) == ((0.5,) * 3, 1.0, "bicubic")
    assert build("timm:convnext_tiny.fb_in22k_ft_in1k_384", checkpoint="none").preprocess.squash


def test_a_network_without_classes_counts_its_features() -> None:
    net = build("timm:vit_small_patch14_dinov2.lvd142m", checkpoint="none", img_size=28)
    assert net.num_classes == 384


def test_old_names_lead_to_new_ones() -> None:
    assert build("timm:tv_resnet34", checkpoint="none").name == "resnet34.tv_in1k"


def test_a_tag_that_is_not_there_is_answered_with_those_that_are() -> None:
    with pytest.raises(PairError, match=r"timm's `resnet34` has no weights `a9`") as caught:
        build("timm:resnet34.a9", checkpoint="none")
    assert "resnet34.a1_in1k" in caught.value.fix


def test_a_size_that_a_network_cannot_be_built_for_is_refused() -> None:
    with pytest.raises(PairError, match=r"`nest_tiny` cannot be built: .* must divide"):
        build("timm:nest_tiny", checkpoint="none", img_size=50)


# folders


def saved(folder: Path, net: nn.Module) -> str:
    timm.models.save_for_hf(net, folder, safe_serialization=True)
    return f"local-dir:{folder}"


def test_a_folder_that_timm_wrote_is_read_whole(tmp_path: Path) -> None:
    net = randomise(timm.create_model("resnet10t", num_classes=7, in_chans=1))
    spec = saved(tmp_path, net)
    got = build(spec)
    assert same_weights(got.module, net)
    assert (got.source, got.name, got.num_classes, got.input_size[0]) == ("local-dir", "resnet10t", 7, 1)
    assert str(rebuild(json.loads(json.dumps(got.origin)))) == str(got.module)


def test_a_folder_without_weights_can_be_planned_with(tmp_path: Path) -> None:
    spec = saved(tmp_path, timm.create_model("resnet10t", num_classes=7))
    for file in tmp_path.iterdir():
        if file.name != "config.json":
            file.unlink()
    assert build(spec, checkpoint="none").num_classes == 7
    with pytest.raises(CheckpointError, match=r"has no weights file: it holds config\.json"):
        build(spec)


@pytest.mark.parametrize(
    "config", [None, "{", "[]", "{}", '{"architecture": "resnet10t", "pretrained_cfg": {"colour": 3}}']
)
def test_a_folder_that_timm_did_not_write_is_refused(tmp_path: Path, config: str | None) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(CheckpointError, match=r"config\.json") as caught:
        build(f"local-dir:{tmp_path}")
    assert "save_for_hf" in caught.value.fix


def test_a_folder_that_names_an_unknown_network_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architecture": "resnet10u", "pretrained_cfg": {}}')
    with pytest.raises(PairError, match="timm has no network `resnet10u`") as caught:
        build(f"local-dir:{tmp_path}")
    assert "resnet10t" in caught.value.fix


# foreign checkpoints


def test_a_checkpoint_from_before_timm_is_converted_by_timm(tmp_path: Path) -> None:
    net = randomise(timm.create_model("convnext_atto", num_classes=6))
    torch.save({"model": as_its_authors_wrote(net.state_dict())}, tmp_path / "convnext.pth")
    got = build("timm:convnext_atto", checkpoint=tmp_path / "convnext.pth", num_classes=6)
    assert same_weights(got.module, net)


def as_its_authors_wrote(state: dict[str, Any]) -> dict[str, Any]:
    """ConvNeXt's weights by the names of its first repository."""
    renamed = {}
    for key, value in state.items():
        for new, old in (
            ("stem.0", "downsample_layers.0.0"),
            ("stem.1", "downsample_layers.0.1"),
            ("head.norm.", "norm."),
            ("head.fc.", "head."),
            ("conv_dw", "dwconv"),
            ("mlp.fc1", "pwconv1"),
            ("mlp.fc2", "pwconv2"),
        ):
            key = key.replace(new, old)
        if key.startswith("stages.") and ".downsample." in key:
            stage = key.split(".")[1]
            key = key.replace(f"stages.{stage}.downsample", f"downsample_layers.{stage}")
        renamed[key.replace(".blocks.", ".")] = value
    return renamed


def test_positions_are_resampled_for_another_image_size(tmp_path: Path) -> None:
    net = randomise(timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=6))
    torch.save(net.state_dict(), tmp_path / "vit.pth")
    got = build("timm:vit_tiny_patch16_224", checkpoint=tmp_path / "vit.pth", img_size=96, num_classes=6)
    assert got.module.get_parameter("pos_embed").shape[1] == 6 * 6 + 1
    assert torch.equal(
        got.module.get_parameter("blocks.3.mlp.fc1.weight"), net.get_parameter("blocks.3.mlp.fc1.weight")
    )
