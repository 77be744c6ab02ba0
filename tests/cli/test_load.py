"""graftcli.load gives back what was saved, and runs no code that the user does not trust."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from graftcli import plan
from graftcli.errors import CheckpointError
from graftcli.formats.loading import load
from graftcli.graft.surgery import hybrid
from graftcli.models.loading.build import build
from graftcli.models.loading.trust import trusted
from graftcli.models.network import Network
from graftcli.store.model_card import CardFacts, save_student, write_weights
from tests import nets
from tests.cards import PREPROCESS, answers, made, network
from tests.nets import randomise

SIZE = 32
FIT_32 = replace(PREPROCESS, size=(SIZE, SIZE))


def code_file(folder: Path) -> Path:
    return Path(shutil.copy(str(nets.__file__), folder / "mine.py"))


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    teacher, student = one.state_dict(), other.state_dict()
    return teacher.keys() == student.keys() and all(torch.equal(teacher[name], student[name]) for name in teacher)


@pytest.mark.parametrize("spec", ["timm:resnet10t", "torchvision:squeezenet1_1", "file"])
def test_a_student_comes_back_from_its_folder_and_from_its_file(tmp_path: Path, spec: str) -> None:
    net = network(f"{code_file(tmp_path)}:resnet(depth=8)" if spec == "file" else spec)
    save_student(tmp_path / "run", net.module, made(net))
    write_weights(tmp_path / "alone.safetensors", net.module, made(net))
    for path in (tmp_path / "run", str(tmp_path / "alone.safetensors")):
        module = load(path)
        assert not module.training and same_weights(module, net.module)
        assert torch.equal(answers(module), answers(net.module))


def half_grafted(folder: Path) -> tuple[hybrid.Hybrid, CardFacts]:
    """A ResNet-20 whose second block is a ResNet-8's."""
    file = code_file(folder)
    teacher, student = (
        build(f"{file}:resnet(depth={depth})", checkpoint="none", img_size=SIZE, num_classes=7) for depth in (20, 8)
    )
    for seed, net in enumerate((teacher, student)):
        randomise(net.module, seed)
    pair = plan(teacher, student)
    blocks = [
        ("student" if block.index == 2 else "teacher", (pair.student if block.index == 2 else pair.teacher).blocks[k])
        for k, block in enumerate(pair.blocks)
    ]
    module = hybrid.compose(blocks, {}, {})  # type: ignore[arg-type]
    facts = hybrid.facts(pair, {2}, [], {})
    return module, CardFacts(teacher.origin, student.origin, FIT_32, "graft", 100, "graftcli partial", {}, facts)


def test_a_hybrid_comes_back_from_its_folder_and_from_its_file(tmp_path: Path) -> None:
    module, facts = half_grafted(tmp_path)
    save_student(tmp_path / "run", module, facts)
    write_weights(tmp_path / "alone.safetensors", module, facts)
    images = torch.randn(2, 3, SIZE, SIZE)
    for path in (tmp_path / "run", tmp_path / "alone.safetensors"):
        got = load(path)
        assert not got.training and same_weights(got, module)
        with torch.no_grad():
            assert torch.equal(got(images), module(images))


def in_a_new_process(lines: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python lines run where nobody has named any code yet."""
    words = [sys.executable, "-c", f"import graftcli\n{lines}"]
    return subprocess.run(words, capture_output=True, text=True, env={**os.environ, **environment}, check=False)


def test_a_file_is_run_when_its_bytes_are_trusted_and_no_longer_when_they_change(tmp_path: Path) -> None:
    file = code_file(tmp_path)
    net = network(f"{file}:resnet(depth=8)")
    save_student(tmp_path / "run", net.module, made(net))
    message = in_a_new_process(f"graftcli.load({str(tmp_path / 'run')!r})").stderr
    assert "would run code: `resnet` of" in message and "mine.py` (sha256 " in message and "--trust-code" in message
    assert in_a_new_process(f"graftcli.load({str(tmp_path / 'run')!r}, trust_code=True)").returncode == 0
    assert [(one.call, one.path) for one in trusted()] == [("resnet", str(file))]
    assert in_a_new_process(f"graftcli.load({str(tmp_path / 'run')!r})").returncode == 0
    with file.open("a") as opened:
        opened.write(f"\nfrom pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n")
    assert "would run code" in in_a_new_process(f"graftcli.load({str(tmp_path / 'run')!r})").stderr
    assert not (tmp_path / "ran").exists()


def test_a_file_that_the_user_named_in_this_process_is_run(tmp_path: Path) -> None:
    net = network(f"{code_file(tmp_path)}:resnet(depth=8)")
    save_student(tmp_path / "run", net.module, made(net))
    assert same_weights(load(tmp_path / "run"), net.module)


def test_a_package_is_never_imported_by_its_name(tmp_path: Path) -> None:
    net = network("tests.nets:resnet(depth=8)")
    save_student(tmp_path / "run", net.module, made(net))
    message = in_a_new_process(f"graftcli.load({str(tmp_path / 'run')!r}, trust_code=True)").stderr
    assert "would run code: `resnet` of the package `tests.nets`" in message
    given = nets.resnet(depth=8, num_classes=7)
    before = {name: tensor.clone() for name, tensor in given.state_dict().items()}
    assert same_weights(load(tmp_path / "run", student=given), net.module)
    assert all(torch.equal(tensor, before[name]) for name, tensor in given.state_dict().items())


def stock(folder: Path) -> Network:
    net = network("timm:resnet10t")
    save_student(folder, net.module, made(net))
    return net


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ("{", "was not written by graftcli"),
        ("[]", "was not written by graftcli"),
        ("{}", "does not describe a network"),
        (None, "is not a finished run"),
    ],
)
def test_a_folder_of_others_is_refused(tmp_path: Path, document: str | None, reason: str) -> None:
    stock(tmp_path)
    if document is None:
        (tmp_path / "graft.json").unlink()
    else:
        (tmp_path / "graft.json").write_text(document)
    with pytest.raises(CheckpointError, match=reason):
        load(tmp_path)


def test_a_folder_from_the_future_is_refused(tmp_path: Path) -> None:
    stock(tmp_path)
    facts = json.loads((tmp_path / "graft.json").read_text())
    (tmp_path / "graft.json").write_text(json.dumps({**facts, "format": 2}))
    with pytest.raises(CheckpointError, match=r"has format 2; this graftcli reads format 1"):
        load(tmp_path)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    stock(tmp_path)
    other = network("timm:resnet14t")
    write_weights(tmp_path / "model.safetensors", other.module, made(other))
    with pytest.raises(CheckpointError, match=r"graft.json` differs from the metadata of `model.safetensors`"):
        load(tmp_path)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"There is no file or folder `.*nowhere`"):
        load(tmp_path / "nowhere")
