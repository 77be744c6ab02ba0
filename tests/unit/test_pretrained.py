"""Pretrained weights come from a cache; without one the refusal says how to pass a file."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NoReturn

import pytest
import timm
import torch
import torchvision
from huggingface_hub import constants
from safetensors.torch import save_file

from graftcli.errors import CheckpointError
from graftcli.models.loading import pretrained
from graftcli.models.loading.build import build
from tests.nets import randomise, same_weights


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without internet and with empty caches."""

    def unknown(*_: object, **__: object) -> NoReturn:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def on_hub(folder: Path, repo: str, state: dict[str, torch.Tensor]) -> None:
    """A repository in the cache of the Hugging Face Hub."""
    home = folder / "hub" / f"models--{repo.replace('/', '--')}"
    for part in ("refs", "snapshots/0123abcd"):
        (home / part).mkdir(parents=True)
    (home / "refs" / "main").write_text("0123abcd")
    save_file(state, home / "snapshots" / "0123abcd" / "model.safetensors")


def in_torch_cache(folder: Path, line: Any, state: dict[str, torch.Tensor]) -> None:
    """A download of torchvision's that lies in torch's cache."""
    (folder / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(state, folder / "torch" / "hub" / "checkpoints" / line.url.rsplit("/", 1)[-1])


@pytest.mark.parametrize(
    ("spec", "where"),
    [
        ("resnet10t", "timm/resnet10t.c3_in1k"),
        ("timm:resnet18.tv_in1k", "timm/resnet18.tv_in1k"),
        ("torchvision:resnet18", "resnet18-f37072fd.pth"),
        ("tv:resnet50@IMAGENET1K_V1", "resnet50-0676ba61.pth"),
    ],
)
@pytest.mark.parametrize(
    ("role", "flag"),
    [("teacher", "--teacher-checkpoint"), ("student", "--student-checkpoint"), ("model", " --checkpoint")],
)
def test_weights_that_cannot_be_downloaded_are_answered_with_how_to_pass_a_file(
    tmp_path: Path, spec: str, where: str, role: str, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    start = time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        build(spec, role=role)
    assert time.monotonic() - start < 5
    assert where in caught.value.message and "cannot be downloaded" in caught.value.message
    assert "Name or service not known" in caught.value.message
    assert flag in caught.value.fix and "`none`" in caught.value.fix
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert capsys.readouterr() == ("", "")


def test_a_repository_that_cannot_be_reached_is_answered_with_a_folder() -> None:
    with pytest.raises(
        CheckpointError, match=r"config.json of `hf-hub:timm/resnet10t.c3_in1k` cannot be downloaded"
    ) as caught:
        build("hf-hub:timm/resnet10t.c3_in1k", checkpoint="none", role="student")
    assert "--student local-dir:" in caught.value.fix


def test_a_network_that_was_never_trained_is_refused_before_any_download() -> None:
    with pytest.raises(CheckpointError, match="timm has no pretrained weights for `resnetaa34d`"):
        build("timm:resnetaa34d")


def test_timms_weights_come_from_the_cache_without_internet(tmp_path: Path) -> None:
    net = randomise(timm.create_model("resnet10t"))
    on_hub(tmp_path, "timm/resnet10t.c3_in1k", net.state_dict())
    got = build("resnet10t")
    assert same_weights(got.module, net)
    assert (str(got.weights), got.source) == ("pretrained (timm/resnet10t.c3_in1k)", "timm")
    assert not got.module.training


def test_torchvisions_weights_come_from_the_cache_without_internet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    net = randomise(torchvision.models.resnet18())
    in_torch_cache(tmp_path, line, net.state_dict())
    got = build("torchvision:resnet18")
    assert same_weights(got.module, net)
    assert str(got.weights) == "pretrained (IMAGENET1K_V1)"
    assert capsys.readouterr().out == ""


def test_a_teacher_keeps_its_classifier_and_a_student_may_get_a_fresh_one(tmp_path: Path) -> None:
    net = randomise(torchvision.models.resnet18())
    in_torch_cache(tmp_path, torchvision.models.ResNet18_Weights.IMAGENET1K_V1, net.state_dict())
    on_hub(tmp_path, "timm/resnet10t.c3_in1k", timm.create_model("resnet10t").state_dict())
    for spec in ("torchvision:resnet18", "resnet10t"):
        with pytest.raises(CheckpointError, match="have 1,000 classes, not 7"):
            build(spec, num_classes=7)
        got = build(spec, num_classes=7, role="student")
        assert got.num_classes == 7
        assert "new classifier with 7 classes" in str(got.weights)
    student = build("torchvision:resnet18", num_classes=7, role="student")
    assert torch.equal(student.module.get_parameter("conv1.weight"), net.get_parameter("conv1.weight"))


def test_weights_for_images_of_another_size_are_refused(tmp_path: Path) -> None:
    line = torchvision.models.ViT_B_16_Weights.IMAGENET1K_V1
    with torch.device("meta"):  # shapes alone, which takes no time
        shapes = {name: tensor.shape for name, tensor in torchvision.models.vit_b_16().state_dict().items()}
    in_torch_cache(tmp_path, line, {name: torch.zeros(shape) for name, shape in shapes.items()})
    for classes, role in ((None, "teacher"), (7, "student")):  # a fresh classifier is no excuse
        with pytest.raises(CheckpointError, match=r"pos_embedding \(network 1x26x768, checkpoint 1x197x768\)"):
            build("torchvision:vit_b_16", img_size=80, num_classes=classes, role=role)


def test_a_grey_image_sees_the_sum_of_the_colours_filters(tmp_path: Path) -> None:
    net = randomise(torchvision.models.resnet18()).eval()
    in_torch_cache(tmp_path, torchvision.models.ResNet18_Weights.IMAGENET1K_V1, net.state_dict())
    on_hub(tmp_path, "timm/resnet10t.c3_in1k", randomise(timm.create_model("resnet10t")).state_dict())
    got = build("torchvision:resnet18", in_chans=1)
    assert (got.input_size[0], len(got.preprocess.mean)) == (1, 1)
    for loaded in (got, build("resnet10t", in_chans=1)):
        assert "from 3 to 1 channels" in str(loaded.weights)
    grey = torch.rand(2, 1, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(
            got.module.double()(grey), net.double()(grey.expand(-1, 3, -1, -1)), rtol=1e-5, atol=1e-5
        )


def test_a_cached_file_that_is_damaged_is_refused(tmp_path: Path) -> None:
    line = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    in_torch_cache(tmp_path, line, {})
    file = next(path for path in tmp_path.rglob("*.pth"))
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="cannot be read from the cache: PytorchStreamReader"):
        build("torchvision:resnet18")


@contextmanager
def server(answers: bool) -> Iterator[str]:
    """A server on this machine that answers every request with a refusal, or none at all."""
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as http:
        if answers:
            threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        if answers:
            http.shutdown()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # of the machine without internet: this one asks itself
    monkeypatch.setattr(pretrained, "TIMEOUT", 0.3)


@pytest.mark.usefixtures("quick")
def test_a_server_that_never_answers_is_not_waited_for() -> None:
    with server(answers=False) as url:
        assert "does not respond (timed out)" in pretrained._unreachable(url)
    assert "does not respond" in pretrained._unreachable(url)


@pytest.mark.usefixtures("quick")
def test_a_server_that_refuses_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    with server(answers=True) as url:
        assert pretrained._unreachable(url) == ""
    assert "501" in capsys.readouterr().err  # the server's own log


def test_offline_mode_makes_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE is set"):
        build("resnet10t")
    assert constants.HF_HUB_OFFLINE is True
