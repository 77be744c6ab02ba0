"""The report shows the images on which teacher and student disagree most."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from graftcli.images import Images
from graftcli.models.network import Network, PreprocessDefaults
from graftcli.models.weights import Weights, WeightsOrigin
from graftcli.report import disagreement
from graftcli.report.disagreement import compare, imagenet_names, thumbnail
from tests.engine import PREPROCESS

CPU = torch.device("cpu")


class Fixed(nn.Module):
    """Answers by the first pixel of an image: row k of a table for images of value k."""

    def __init__(self, rows: list[list[float]]) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.tensor(rows))

    def forward(self, x: Tensor) -> Tensor:
        value = ((x[:, 0, 0, 0] * PREPROCESS.std[0] + PREPROCESS.mean[0]) * 255).round().long()
        return self.rows[value]


def images(count: int) -> Images:
    pixels = (
        torch.arange(count, dtype=torch.uint8)[:, None, None, None]
        .expand(count, 3, *PREPROCESS.stored_size)
        .contiguous()
    )
    return Images(pixels, tuple(f"{i}.png" for i in range(count)), (), np.array([], "S32"), "")


_RANDOM = Weights(WeightsOrigin.RANDOM)
_PRETRAINED = Weights(WeightsOrigin.PRETRAINED, "timm/resnet34.a1_in1k")


def network(module: nn.Module, source: str = "file", weights: Weights = _RANDOM, classes: int = 2) -> Network:
    return Network(
        module,
        "net",
        source,
        weights,
        (3, 16, 16),
        classes,
        PreprocessDefaults(PREPROCESS.mean, PREPROCESS.std, 1.0, ""),
        {"kind": "in-memory", "key": "net"},
    )


def opened(uri: str) -> Image.Image:
    kind, data = uri.split(",")
    assert kind == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_other_answers_come_first_then_the_largest_divergence() -> None:
    teacher = Fixed([[4.0, 0.0], [4.0, 0.0], [1.0, 0.0], [4.0, 0.0]])
    student = Fixed([[4.0, 0.0], [0.1, 0.0], [0.0, 0.1], [0.0, 4.0]])
    found = compare(network(teacher), student, images(4), PREPROCESS, CPU)
    assert (found.images, found.same) == (4, 2)
    assert [one.image for one in found.worst] == ["3.png", "2.png", "1.png", "0.png"]
    worst = found.worst[0]
    assert (worst.teacher.index, worst.student.index, worst.teacher.name) == (0, 1, None)
    assert worst.teacher.share == pytest.approx(1 / (1 + np.exp(-4.0)))
    assert worst.kl > found.worst[1].kl and found.worst[2].kl > found.worst[3].kl == pytest.approx(0.0, abs=1e-6)


def test_the_number_of_compared_and_shown_images_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disagreement, "MAX_IMAGES", 5)
    monkeypatch.setattr(disagreement, "MAX_SHOWN", 3)
    net = Fixed([[float(i), 0.0] for i in range(9)])
    found = compare(network(net), net, images(9), PREPROCESS, CPU)
    assert (found.images, found.same, len(found.worst)) == (5, 5, 3)


def test_answers_without_numbers_are_shown_and_fit_into_json() -> None:
    broken = Fixed([[float("nan"), float("nan")], [float("inf"), 0.0]])
    found = compare(network(Fixed([[1.0, 0.0]] * 2)), broken, images(2), PREPROCESS, CPU)
    assert all(np.isfinite([one.kl, one.teacher.share, one.student.share]).all() for one in found.worst)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "L")])
def test_a_picture_is_what_the_networks_saw(channels: int, mode: str) -> None:
    pixels = torch.randint(0, 256, (channels, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    image = opened(thumbnail(pixels))
    assert (image.mode, image.size) == (mode, (30, 20))
    seen = pixels[0] if mode == "L" else pixels.permute(1, 2, 0)
    assert np.array_equal(np.asarray(image), seen.numpy())


def test_a_large_picture_is_made_small() -> None:
    assert opened(thumbnail(torch.zeros(3, 480, 640, dtype=torch.uint8))).size == (96, 72)


def test_only_classes_of_imagenet_have_names() -> None:
    net = Fixed([[0.0]])
    names = imagenet_names(network(net, "timm", _PRETRAINED, 1000))
    assert len(names) == 1000 and names[0] == "tench" and names[281].startswith("tabby")
    for other in (
        network(net, "file", Weights(WeightsOrigin.CHECKPOINT, "best.pth"), 1000),
        network(net, "timm", _RANDOM, 1000),
        network(net, "timm", _PRETRAINED, 7),
    ):
        assert imagenet_names(other) == ()
