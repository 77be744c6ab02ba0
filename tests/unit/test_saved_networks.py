"""Saved networks are rebuilt as they were."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from graftcli.environment.machine import peak_memory
from graftcli.errors import CheckpointError, PairError
from graftcli.models.loading.build import Network, build
from graftcli.models.loading.saved import FACTS_FILE, WEIGHTS_FILE, rebuild
from graftcli.models.loading.tensor_file import serialized
from tests.nets import randomise

SPECS = ["timm:resnet10t", "torchvision:squeezenet1_1", "tests/nets.py:resnet(depth=8)"]


def made(spec: str) -> Network:
    net = build(spec, checkpoint="none", num_classes=6, img_size=48)
    randomise(net.module)
    return net


def document(net: Network) -> dict[str, Any]:
    seen = {**net.origin["preprocess"], "size": net.origin["input_size"][1:]}
    both = {"teacher": net.origin, "student": net.origin, "hybrid": None, "preprocess": seen}
    return {"format": 1, "kind": "student", **both, "classes": net.num_classes}


def written_folder(net: Network, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / FACTS_FILE).write_text(json.dumps(document(net)))
    (folder / WEIGHTS_FILE).write_bytes(serialized(net.module.state_dict(), document(net)))
    return folder


def written_file(net: Network, folder: Path) -> Path:
    (folder / "student.safetensors").write_bytes(serialized(net.module.state_dict(), document(net)))
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
    loaded, total = str(got.weights).split(": ")[1].removesuffix(" tensors").split(" of ")
    assert loaded == total


@pytest.mark.parametrize("spec", SPECS)
def test_rebuilding_makes_the_same_architecture(spec: str) -> None:
    net = made(spec)
    again = rebuild(json.loads(json.dumps(net.origin)))
    assert str(again) == str(net.module)
    assert not again.training


def test_a_saved_network_takes_the_requested_size_where_it_runs_at_it(tmp_path: Path) -> None:
    folder = str(written_folder(made("timm:resnet10t"), tmp_path / "convolutions"))
    assert build(folder, img_size=64).made_for.img_size == (64, 64)
    folder = str(written_folder(made("timm:vit_tiny_patch16_224"), tmp_path / "tokens"))
    assert build(folder, img_size=48).made_for.img_size == (48, 48)
    with pytest.raises(PairError, match="saved for 48x48, does not run on images of 64x64"):
        build(folder, img_size=64)


def test_a_student_may_be_what_graftcli_wrote(tmp_path: Path) -> None:
    net = made("timm:resnet10t")
    folder = str(written_folder(net, tmp_path / "run"))
    assert build(folder, like=net, role="student").num_classes == 6
    with pytest.raises(Exception, match="has 6 classes; the teacher has 9"):
        build(folder, like=build("resnet10t", checkpoint="none", num_classes=9), role="student")


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ("{", "was not written by graftcli"),
        ("[]", "was not written by graftcli: it is a list"),
        ("[" * 100_000, "was not written by graftcli"),
        ("{}", "does not describe a network: classes, format"),
    ],
)
def test_facts_that_are_damaged_are_refused(tmp_path: Path, facts: str, reason: str) -> None:
    (tmp_path / FACTS_FILE).write_text(facts)
    with pytest.raises(CheckpointError, match=reason):
        build(str(tmp_path))


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("kind", "timm!", "student"),
        ("name", 3, "`student.name`: input should be a valid string, found 3"),
        ("kwargs", [], "`student.kwargs`: input should be a valid dictionary"),
        ("kwargs", {"checkpoint_path": "x.pth"}, "contains the argument `checkpoint_path`"),
        ("kwargs", {"drop_rate": "/etc/passwd"}, "contains the argument `'drop_rate'` of '/etc/passwd'"),
        ("input_size", [3, 48], "`student.input_size`: list should have at least 3 items"),
        ("num_classes", -6, "`student.num_classes`: input should be greater than or equal to 0, found -6"),
        ("num_classes", True, "`student.num_classes`: input should be a valid integer, found True"),
        ("preprocess", {"mean": [0.5]}, "`student.preprocess.std`: field required"),
    ],
)
def test_a_field_that_is_wrong_is_named(tmp_path: Path, field: str, value: object, reason: str) -> None:
    facts = document(made("timm:resnet10t"))
    facts["student"] = {**facts["student"], field: value}
    (tmp_path / FACTS_FILE).write_text(json.dumps(facts))
    with pytest.raises(CheckpointError, match=re.escape(reason)):
        build(str(tmp_path), checkpoint="none")


def test_a_document_that_differs_from_its_weights_is_refused(tmp_path: Path) -> None:
    folder = written_folder(made("timm:resnet10t"), tmp_path)
    facts = json.loads((folder / FACTS_FILE).read_text())
    facts["preprocess"]["mean"][0] += 0.1
    (folder / FACTS_FILE).write_text(json.dumps(facts))
    with pytest.raises(
        CheckpointError, match=r"differs from the metadata of `model.safetensors` in the same folder: `preprocess`"
    ):
        build(str(folder))


@pytest.mark.parametrize(
    ("kwargs", "with_weights"), [({"num_classes": 900_000}, False), ({"layers": [90_000] * 4}, True)]
)
def test_a_network_out_of_proportion_to_its_weights_is_refused_while_it_is_built(
    tmp_path: Path, kwargs: dict[str, Any], with_weights: bool
) -> None:
    net = made("timm:resnet10t")
    facts = document(net)
    facts["student"] = {**facts["student"], "kwargs": kwargs, "name": "resnet50"}
    (tmp_path / FACTS_FILE).write_text(json.dumps(facts))
    if with_weights:
        (tmp_path / WEIGHTS_FILE).write_bytes(serialized(net.module.state_dict(), facts))
    before = peak_memory()
    with pytest.raises(CheckpointError, match="cannot be built"):
        build(str(tmp_path), checkpoint="none")
    assert peak_memory() < max(before, 2**30) + 3 * 2**30


def test_a_hybrid_is_no_network_of_one_name(tmp_path: Path) -> None:
    parts = {"input_size": [3, 48, 48], "blocks": ["student"], "cuts": {}, "seams": [], "reshaped": {}}
    facts = {**document(made("timm:resnet10t")), "kind": "hybrid", "hybrid": parts}
    (tmp_path / FACTS_FILE).write_text(json.dumps(facts))
    with pytest.raises(CheckpointError, match="partly teacher and partly student"):
        build(str(tmp_path))


def test_every_field_of_a_seam_is_checked(tmp_path: Path) -> None:
    seam = {"cut": 1, "name": "both", "source": "NCHW", "target": "NCHW", "size": [8, 8], "shape": [4, 6]}
    parts = {"input_size": [3, 48, 48], "blocks": ["student"], "cuts": {}, "reshaped": {}}
    for fault, field in (
        ({"size": [8]}, "size"),
        ({"shape": "4x6"}, "shape"),
        ({"name": "x"}, "name"),
        ({"y": 1}, "y"),
    ):
        hybrid = {**parts, "seams": [seam, {**seam, **fault}]}
        facts = {**document(made("timm:resnet10t")), "kind": "hybrid", "hybrid": hybrid}
        (tmp_path / FACTS_FILE).write_text(json.dumps(facts))
        with pytest.raises(CheckpointError, match=rf"`hybrid\.seams\.1\.{field}`"):
            build(str(tmp_path))


def test_facts_without_weights_are_refused(tmp_path: Path) -> None:
    folder = written_folder(made("timm:resnet10t"), tmp_path)
    (folder / WEIGHTS_FILE).unlink()
    with pytest.raises(CheckpointError, match="There is no file"):
        build(str(folder))
    assert build(str(folder), checkpoint="none").weights.is_random


def test_a_kind_of_network_from_the_future_is_refused() -> None:
    for kind, name in (
        ("woven", "resnet18"),
        ("timm", "resnet99"),
        ("timm", "hf-hub:a/b"),
        ("torchvision", "raft_small"),
    ):
        with pytest.raises(CheckpointError, match=f"The {kind} network `{name}` is unknown"):
            rebuild(json.loads(json.dumps({"kind": kind, "name": name, "kwargs": {}})))


@pytest.mark.parametrize("where", ["os", os.__file__, "timm"])
@pytest.mark.parametrize("inside", [False, True])
def test_documents_call_no_function(tmp_path: Path, where: str, inside: bool) -> None:
    trap, net = tmp_path / "sprung", made("tests/nets.py:resnet(depth=8)")
    facts = document(net)
    code = {"where": where, "call": f"system(command='touch {trap}')", "sha256": None}
    facts["student"] = {**facts["student"], **code}
    if inside:
        derived = {"kind": "derived", "spec": "decouple", "kept": [], "whole": [], "replaced": {}}
        facts["student"] = {**facts["student"], **derived, "base": facts["student"]}
    (tmp_path / FACTS_FILE).write_text(json.dumps(facts))
    with pytest.raises(CheckpointError, match=r"would run code: `system` of") as caught:
        build(str(tmp_path), checkpoint="none")
    assert ("--trust-code" if where.endswith(".py") else "Name the network yourself") in caught.value.fix
    assert not trap.exists()
