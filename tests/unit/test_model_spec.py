"""Each form of a model spec has one meaning; the refusal of another names what could be meant."""

from argparse import Namespace
from pathlib import Path

import pytest
import timm
import torch
import torchvision

import graftcli
from graftcli.errors import CheckpointError, PairError, UsageError
from graftcli.models.loading.build import build
from graftcli.models.loading.model_spec import output_of
from graftcli.runs.loading import network_of
from graftcli.store.model_card import save_student
from graftcli.students.make import is_derived_from_teacher
from tests.cards import made, network
from tests.nets import randomise, resnet


@pytest.mark.parametrize(
    ("spec", "source", "name"),
    [
        ("resnet34", "timm", "resnet34"),
        ("timm:resnet34.a1_in1k", "timm", "resnet34.a1_in1k"),
        ("resnet34.tv_in1k", "timm", "resnet34.tv_in1k"),
        ("torchvision:resnet34", "torchvision", "resnet34"),
        ("tv:resnet34", "torchvision", "resnet34"),
        ("torchvision:resnet34@IMAGENET1K_V1", "torchvision", "resnet34"),
        ("squeezenet1_1", "torchvision", "squeezenet1_1"),
        ("tests/nets.py:resnet", "file", "resnet"),
        ("tests/nets.py:resnet(depth=8)", "file", "resnet"),
        ("tests.nets:resnet(depth=8, num_classes=3)", "package", "resnet"),
    ],
)
def test_a_spec_means_one_network(spec: str, source: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    net = build(spec, checkpoint="none")
    assert (net.source, net.name) == (source, name)


@pytest.mark.parametrize(
    ("spec", "found", "near"),
    [
        ("resnet43", "Neither timm nor torchvision has a network `resnet43`", "resnet34"),
        ("mobilnet_v2", "Neither timm nor torchvision has a network `mobilnet_v2`", "mobilenet_v2"),
        ("timm:efficientnet_bo", "timm has no network `efficientnet_bo`", "efficientnet_b0|efficientnet_b"),
        ("tv:squeezenet1_2", "torchvision has no network `squeezenet1_2`", "squeezenet1_1"),
        ("tv:fasterrcnn_resnet50_fpn", "torchvision has no network `fasterrcnn_resnet50_fpn`", ""),
        ("somebody/their.network", "Neither timm nor torchvision has a network", "hf-hub:somebody/their.network"),
        ("qqqqqqqqqq", "Neither timm nor torchvision has a network `qqqqqqqqqq`", "file.py:factory"),
        ("", "Neither timm nor torchvision has a network ``", "file.py:factory"),
    ],
)
def test_a_typo_is_answered_with_the_nearest_names(spec: str, found: str, near: str) -> None:
    with pytest.raises(PairError, match=found) as caught:
        build(spec, checkpoint="none")
    assert any(word in caught.value.fix for word in near.split("|"))


@pytest.mark.parametrize(("spec", "near"), [("runs/nothere", ""), ("runs/smal", "runs/small"), ("./resnet", "")])
def test_a_missing_path_is_answered_with_similar_names(
    spec: str, near: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/small").mkdir(parents=True)
    for load in (build, graftcli.load):
        with pytest.raises(CheckpointError, match="There is no file or folder") as caught:
            load(spec)
        assert near in caught.value.fix and "hf-hub" not in caught.value.fix
    with pytest.raises(PairError, match="and there is no file or folder of this name") as unknown:
        build("elsewhere/nothere")
    assert unknown.value.fix == "On the Hugging Face Hub: hf-hub:elsewhere/nothere."


def test_a_model_name_takes_precedence_over_a_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resnet18").mkdir()
    assert build("resnet18", checkpoint="none").source == "timm"
    with pytest.raises(CheckpointError, match=r"is not a finished run") as caught:
        build("./resnet18")
    assert "local-dir:" in caught.value.fix


def test_a_run_folder_named_like_a_model_is_given_as_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    net = network("torchvision:squeezenet1_1")
    save_student(tmp_path / "resnet18", net.module, made(net))
    assert (output_of("resnet18"), output_of("./resnet18")) == (None, Path("resnet18"))
    assert network_of("resnet18", checkpoint="none").source == "timm"
    for written in ("./resnet18", Path("resnet18")):
        assert network_of(written).name == "squeezenet1_1"
    (tmp_path / "resnet18/graft.json").write_text('{"kind": "hybrid"}')
    assert not is_derived_from_teacher("resnet18")


def test_a_file_of_networks_is_no_network() -> None:
    with pytest.raises(UsageError, match="may define several networks"):
        build(__file__)


# a checkpoint alone


@pytest.mark.parametrize(
    "named",
    [
        {"arch": "resnet10t"},
        {"model_name": "resnet10t"},
        {"args": Namespace(model="resnet10t")},
        {"model": "resnet10t"},
    ],
)
def test_a_checkpoint_that_names_its_architecture_needs_nothing_else(tmp_path: Path, named: dict[str, object]) -> None:
    net = randomise(timm.create_model("resnet10t", num_classes=4))
    torch.save({**named, "state_dict": net.state_dict()}, tmp_path / "model.pth")
    got = build(str(tmp_path / "model.pth"))
    assert (got.source, got.name, got.num_classes) == ("timm", "resnet10t", 4)
    assert torch.equal(got.module.get_parameter("fc.weight"), net.get_parameter("fc.weight"))
    assert str(got.weights).startswith("model.pth: ")
    assert (
        build(str(tmp_path / "model.pth"), checkpoint="none").num_classes == 4
    )  # as for a plan, which needs no weights


def test_of_two_models_with_one_name_the_one_that_fits_the_checkpoint_is_taken(tmp_path: Path) -> None:
    for maker, source in ((timm.create_model, "timm"), (torchvision.models.get_model, "torchvision")):
        net = maker("efficientnet_b0", num_classes=4)
        torch.save({"model": net.state_dict(), "args": Namespace(model="efficientnet_b0")}, tmp_path / "model.pth")
        assert build(str(tmp_path / "model.pth")).source == source


def test_a_name_that_two_libraries_have_is_timms_and_the_other_is_named(tmp_path: Path) -> None:
    torch.save(torchvision.models.efficientnet_b0().state_dict(), tmp_path / "model.pth")
    with pytest.raises(CheckpointError) as caught:
        build("efficientnet_b0", checkpoint=tmp_path / "model.pth")
    assert "torchvision:efficientnet_b0" in caught.value.fix


@pytest.mark.parametrize(
    ("role", "flags"), [("teacher", "--teacher resnet34 --teacher-checkpoint"), ("student", "--student-checkpoint")]
)
def test_a_checkpoint_that_names_nothing_is_answered_with_the_flag_to_add(
    tmp_path: Path, role: str, flags: str
) -> None:
    file = tmp_path / "model.pth"
    torch.save({"state_dict": resnet(8).state_dict()}, file)
    with pytest.raises(CheckpointError, match="does not store the name of its architecture") as caught:
        build(str(file), role=role)
    assert f"{flags} {file}" in caught.value.fix
    torch.save({"state_dict": resnet(8).state_dict(), "arch": "my_net"}, file)
    with pytest.raises(CheckpointError, match="names the architecture `my_net`"):
        build(str(file), role=role)


def test_a_file_that_is_not_there_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"There is no file `nowhere/model\.pth`"):
        build("nowhere/model.pth")


@pytest.mark.parametrize(("role", "found"), [("model", "`m.onnx` is an ONNX file"), ("teacher", "--teacher m.onnx")])
def test_an_onnx_file_is_no_network_to_train_or_export(role: str, found: str) -> None:
    with pytest.raises(UsageError, match="cannot be cut, trained or exported again") as refused:
        build("m.onnx", role=role)
    assert found in refused.value.message and "model.safetensors" in refused.value.fix
