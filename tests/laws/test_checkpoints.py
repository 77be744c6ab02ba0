"""Real checkpoints, of real training runs and in the form of real training scripts, load whole and bit for bit."""

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from graftcli.models.loading.build import build
from graftcli.models.loading.checkpoint import find_state, match, read
from tests.image_files import real_data
from tests.nets import randomise, resnet, same_weights


def test_the_pickled_cifar_teacher_is_read_whole() -> None:
    file = real_data("cifar10") / "teachers" / "resnet56-4bfd9763.th"
    saved = read(file)
    assert set(saved) == {"state_dict", "best_prec1"}
    matched = match(find_state(saved), resnet(56))
    assert matched.complete and matched.count == 277


def test_the_cifar_teacher_scores_what_it_scored() -> None:
    file = real_data("cifar10") / "teachers" / "resnet56-4bfd9763.th"
    net = build("tests.nets:resnet(depth=56)", checkpoint=file)
    assert (net.num_classes, net.input_size) == (10, (3, 32, 32))
    images = sorted((real_data("cifar10") / "test").glob("*/*.png"))
    assert len(images) == 4991
    images = images[::4]  # all of them: 0.936
    labels = [int(path.parent.name.split("_")[0]) for path in images]
    assert 0.941 <= accuracy(net.module, images, labels, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) <= 0.943


def test_the_half_precision_imagenet_teacher_scores_what_it_scored() -> None:
    file = real_data("imagenet") / "teachers" / "squeezenet1_1.safetensors"
    assert {tensor.dtype for tensor in read(file).values()} == {torch.float16}
    net = build("torchvision:squeezenet1_1", checkpoint=file, img_size=227)
    assert net.input_size == (3, 227, 227)
    images = sorted((real_data("imagenet") / "test").glob("*/*"))
    assert len(images) == 650
    images = images[::2]  # all of them: 0.738
    labels = [int(path.parent.name) for path in images]
    assert 0.756 <= accuracy(net.module, images, labels, (0.48235, 0.45882, 0.40784), (0.00392157,) * 3) <= 0.776


@torch.no_grad()
def accuracy(
    net: nn.Module, images: list[Path], labels: list[int], mean: tuple[float, ...], std: tuple[float, ...]
) -> float:
    right = 0
    for paths, batch in zip(chunks(images), chunks(labels), strict=True):
        pixels = torch.tensor(np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])) / 255
        inputs = (pixels - torch.tensor(mean)) / torch.tensor(std)
        right += int((net(inputs.permute(0, 3, 1, 2)).argmax(1) == torch.tensor(batch)).sum())
    return right / len(images)


def chunks(items: list[Any], size: int = 256) -> Iterator[list[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "squeezenet1_0", "shufflenet_v2_x0_5", "googlenet"])
def test_torchvisions_training_checkpoints_load_bit_for_bit(tmp_path: Path, name: str) -> None:
    options = {"init_weights": False} if name == "googlenet" else {}  # which warns of a default that may change
    net = randomise(torchvision.models.get_model(name, num_classes=6, **options))
    wrapped = {f"module.{key}": value for key, value in net.state_dict().items()}
    torch.save({"model": wrapped, "args": Namespace(model=name), "epoch": 3}, tmp_path / "checkpoint.pth")
    got = build(f"torchvision:{name}", checkpoint=tmp_path / "checkpoint.pth")
    assert got.num_classes == 6
    expected = net.state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in got.module.state_dict().items())


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenetv3_small_100", "convnext_atto", "deit_tiny_distilled_patch16_224"]
)
def test_timms_training_checkpoints_load_bit_for_bit(tmp_path: Path, name: str) -> None:
    plain, averaged = (randomise(timm.create_model(name, num_classes=6, in_chans=1), seed) for seed in (1, 2))
    saved = {
        "epoch": 3,
        "arch": name,
        "state_dict": {f"_orig_mod.{key}": value for key, value in plain.state_dict().items()},
        "state_dict_ema": {f"module.{key}": value for key, value in averaged.state_dict().items()},
        "args": Namespace(model=name, num_classes=6),
        "metric": np.float64(0.75),
    }
    torch.save(saved, tmp_path / "model_best.pth.tar")
    for ema, net in ((False, plain), (True, averaged)):
        got = build(f"timm:{name}", checkpoint=tmp_path / "model_best.pth.tar", ema=ema)
        assert same_weights(got.module, net)
        assert (got.num_classes, got.input_size[0]) == (6, 1)
        assert ("state_dict_ema" in str(got.weights)) == ema


def test_safetensors_load_bit_for_bit(tmp_path: Path) -> None:
    net = randomise(timm.create_model("resnet10t", num_classes=6))
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    got = build("resnet10t", checkpoint=tmp_path / "w.safetensors")
    assert same_weights(got.module, net)
    total = sum(tensor.is_floating_point() for tensor in net.state_dict().values())
    assert str(got.weights) == f"w.safetensors: {total} of {total} tensors"
