"""What graftcli writes of a network is read back as that network."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from graftcli.errors import CheckpointError, PairError
from graftcli.nets.origin import FACTS_FILE, METADATA_KEY, WEIGHTS_FILE, check_trust, rebuild
from graftcli.nets.spec import Network, build
from tests.nets import randomise

SPECS = ["timm:resnet10t", "torchvision:squeezenet1_1", "tests/nets.py:resnet(depth=8)"]


def made(spec: str) -> Network:
    net = build(spec, checkpoint="none", num_classes=6, img_size=48)
    randomise(net.module)
    return net


def written_folder(net: Network, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / FACTS_FILE).write_text(json.dumps({"student": net.origin, "run": "anything else"}))
    save_file(net.module.state_dict(), folder / WEIGHTS_FILE)
    return folder


def written_file(net: Network, folder: Path) -> Path:
    metadata = {METADATA_KEY: json.dumps({"origin": net.origin}, sort_keys=True)}
    save_file(net.module.state_dict(), folder / "student.safetensors", metadata)
    return folder / "student.safetensors"


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("write", [written_folder, written_file])
def test_what_graftcli_wrote_is_read_back(tmp_path: Path, spec: str, write: Callable[[Network, Path], Path]) -> None:
    net = made(spec)
    got = build(str(write(net, tmp_path)))
    assert (got.source, got.name, got.num_classes) == ("graftcli", net.name, 6)
    assert (got.input_size, got.preprocess, got.origin) == (net.input_size, net.preprocess, net.origin)
    state, expected = got.module.state_dict(), net.module.state_dict()
    assert state.keys() == expected.keys() and all(torch.equal(state[key], expected[key]) for key in state)
    assert got.weights.endswith("tensors") and got.weights.split(" of ")[0].split()[-1] in got.weights.split(" of ")[1]


@pytest.mark.parametrize("spec", SPECS)
def test_rebuilding_makes_the_same_architecture(spec: str) -> None:
    net = made(spec)
    again = rebuild(json.loads(json.dumps(net.origin)))
    assert str(again) == str(net.module)
    assert not again.training


def test_what_graftcli_wrote_takes_the_size_asked_for_where_it_runs_at_it(tmp_path: Path) -> None:
    folder = str(written_folder(made("timm:resnet10t"), tmp_path / "convolutions"))
    assert build(folder, img_size=64).made_for.img_size == (64, 64)
    folder = str(written_folder(made("timm:vit_tiny_patch16_224"), tmp_path / "tokens"))
    assert build(folder, img_size=48).made_for.img_size == (48, 48)
    with pytest.raises(PairError, match="as it was written for 48x48, does not run on images of 64x64"):
        build(folder, img_size=64)


def test_a_student_may_be_what_graftcli_wrote(tmp_path: Path) -> None:
    net = made("timm:resnet10t")
    folder = str(written_folder(net, tmp_path / "run"))
    assert build(folder, like=net, role="student").num_classes == 6
    with pytest.raises(Exception, match="comes with 6 classes; the teacher has 9"):
        build(folder, like=build("resnet10t", checkpoint="none", num_classes=9), role="student")


@pytest.mark.parametrize(
    "facts", ["{", "[]", "{}", '{"student": {}}', '{"student": {"kind": "timm"}}', '{"student": 3}']
)
def test_facts_that_are_damaged_are_refused(tmp_path: Path, facts: str) -> None:
    (tmp_path / FACTS_FILE).write_text(facts)
    with pytest.raises(CheckpointError, match="is not what graftcli writes"):
        build(str(tmp_path))


def test_a_hybrid_is_no_network_of_one_name(tmp_path: Path) -> None:
    (tmp_path / FACTS_FILE).write_text(json.dumps({"kind": "hybrid", "student": made("timm:resnet10t").origin}))
    with pytest.raises(CheckpointError, match="partly teacher and partly student"):
        build(str(tmp_path))


def test_facts_without_weights_are_refused(tmp_path: Path) -> None:
    folder = written_folder(made("timm:resnet10t"), tmp_path)
    (folder / WEIGHTS_FILE).unlink()
    with pytest.raises(CheckpointError, match="There is no file"):
        build(str(folder))
    assert build(str(folder), checkpoint="none").weights == "random"


def test_a_kind_of_network_from_the_future_is_refused() -> None:
    for kind, name in (
        ("woven", "resnet18"),
        ("timm", "resnet99"),
        ("timm", "hf-hub:a/b"),
        ("torchvision", "raft_small"),
    ):
        with pytest.raises(CheckpointError, match=f"`{name}` of the kind `{kind}` is not known here"):
            rebuild({"kind": kind, "name": name, "kwargs": {}})


@pytest.mark.parametrize("where", ["os", os.__file__, "timm"])
def test_what_somebody_wrote_calls_no_function_of_theirs(tmp_path: Path, where: str) -> None:
    trap = tmp_path / "sprung"
    facts = {**made("tests/nets.py:resnet(depth=8)").origin, "where": where, "call": f"system(command='touch {trap}')"}
    facts["sha256"] = hashlib.sha256(Path(where).read_bytes()).hexdigest() if where.endswith(".py") else None
    (tmp_path / FACTS_FILE).write_text(json.dumps({"student": facts}))
    with pytest.raises(CheckpointError, match=r"Reading `.*` runs `system") as caught:
        build(str(tmp_path), checkpoint="none")
    assert "--unsafe-load" in caught.value.mend
    with pytest.raises(CheckpointError, match="runs `system"):
        check_trust({"kind": "narrower", "base": facts}, tmp_path, unsafe=False)
    assert not trap.exists()
