"""torchvision's classifiers are built as requested, else as their weights were made, and rebuilt the same."""

import json
from pathlib import Path

import pytest
import torch
import torchvision

from graftcli.errors import PairError
from graftcli.models.loading.build import build, rebuild
from graftcli.models.loading.from_torchvision import names
from tests.nets import randomise


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet18", 48),
        ("densenet121", 64),
        ("vit_b_32", 64),
        ("maxvit_t", 224),
        ("swin_t", 64),
        ("inception_v3", 96),
        ("googlenet", 64),
        ("squeezenet1_1", 64),
    ],
)
def test_a_network_runs_on_the_images_it_is_built_for(name: str, size: int) -> None:
    net = build(f"torchvision:{name}", checkpoint="none", num_classes=5, in_chans=1, img_size=size)
    assert (net.num_classes, net.input_size, net.source) == (5, (1, size, size), "torchvision")
    assert net.weights.is_random
    with torch.no_grad():
        assert net.module(torch.zeros(1, *net.input_size)).shape == (1, 5)
    again = rebuild(json.loads(json.dumps(net.origin)))
    assert str(again) == str(net.module)


def test_names_are_those_of_classifiers() -> None:
    assert "resnet34" in names() and "vit_b_16" in names()
    assert not {"fasterrcnn_resnet50_fpn", "deeplabv3_resnet50", "r3d_18", "raft_small", "quantized_resnet18"} & set(
        names()
    )


@pytest.mark.parametrize(
    ("spec", "crop_pct", "interpolation", "size"),
    [
        ("tv:resnet50@IMAGENET1K_V1", 224 / 256, "bilinear", 224),
        ("tv:resnet50", 224 / 232, "bilinear", 224),
        ("torchvision:efficientnet_b0", 224 / 256, "bicubic", 224),
        ("torchvision:inception_v3", 299 / 342, "bilinear", 299),
        ("torchvision:vit_b_16@IMAGENET1K_SWAG_E2E_V1", 1.0, "bicubic", 384),
    ],
)
def test_images_are_prepared_as_for_the_weights(spec: str, crop_pct: float, interpolation: str, size: int) -> None:
    net = build(spec, checkpoint="none")
    assert (net.preprocess.crop_pct, net.preprocess.interpolation, net.input_size[1]) == (crop_pct, interpolation, size)


def test_a_file_of_torchvisions_is_known_by_its_name(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet50().state_dict(), tmp_path / "resnet50-0676ba61.pth")
    torch.save(torchvision.models.resnet50().state_dict(), tmp_path / "mine.pth")
    assert build("tv:resnet50", checkpoint=tmp_path / "resnet50-0676ba61.pth").preprocess.crop_pct == 224 / 256
    assert build("tv:resnet50", checkpoint=tmp_path / "mine.pth").preprocess.crop_pct == 224 / 232


def test_weights_that_were_converted_keep_their_own_normalisation(tmp_path: Path) -> None:
    converted = randomise(
        torchvision.models.googlenet(aux_logits=True, transform_input=True, init_weights=False)
    ).eval()
    torch.save(converted.state_dict(), tmp_path / "googlenet-1378be20.pth")
    torch.save(converted.state_dict(), tmp_path / "mine.pth")
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        same = build("tv:googlenet", checkpoint=tmp_path / "googlenet-1378be20.pth", img_size=64).module(image)
        other = build("tv:googlenet", checkpoint=tmp_path / "mine.pth", img_size=64).module(image)
        assert torch.equal(same, converted(image))
        assert not torch.equal(other, same)


def test_weights_that_are_not_there_are_answered_with_those_that_are() -> None:
    with pytest.raises(PairError, match="torchvision has no weights `V9` of `resnet34`") as caught:
        build("tv:resnet34@V9", checkpoint="none")
    assert "IMAGENET1K_V1" in caught.value.fix


def test_square_images_only_where_torchvision_takes_no_others() -> None:
    with pytest.raises(PairError, match="takes square images, not 64x32"):
        build("tv:vit_b_32", checkpoint="none", img_size=(64, 32))
    assert build("tv:resnet18", checkpoint="none", img_size=(64, 32)).input_size == (3, 64, 32)


def test_a_size_that_a_network_cannot_be_built_for_is_refused() -> None:
    with pytest.raises(PairError, match="`maxvit_t` cannot be built: ValueError: Input size"):
        build("tv:maxvit_t", checkpoint="none", img_size=100)
