"""Students derived from the teacher as a user meets them: planned, distilled, saved, loaded and exported."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from typer.testing import Result

import graftcli
from graftcli.errors import CheckpointError, PairError, UsageError
from graftcli.graft import engine as engine_run
from graftcli.models.channel_selection import selected_tensor
from graftcli.models.cuts import plan as plans
from graftcli.models.derivation import is_derived, selections_of
from graftcli.models.loading.build import build, rebuild
from graftcli.models.network import Network
from graftcli.students.make import is_derived_from_teacher, student_maker
from tests import engine
from tests.commands import call
from tests.image_files import photos
from tests.nets import NETS, randomise, resnet, resnet18, same_weights, vgg16
from tests.pairs import FlatVGG, network, of_timm

pytestmark = pytest.mark.usefixtures("inside")

SPECS = ("teacher*0.5", "prune:l1=0.5", "prune:slim=0.5", "prune:act=0.5", "lowrank:0.5", "decouple")
DROPS = ("drop:layer1.1,layer3.1", "drop:auto=2")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    photos(folder, [f"photos/{i}.png" for i in range(8)])
    torch.manual_seed(0)
    torch.save(randomise(resnet(depth=14)).state_dict(), folder / "teacher.pth")
    return folder


@pytest.fixture(scope="module")
def teacher(place: Path) -> Network:
    return build(f"{NETS}:resnet(depth=14)", checkpoint=place / "teacher.pth")


def made(spec: str, teacher: Network, **more: Any) -> Network:
    pictures = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return build(spec, like=teacher, role="student", derive=student_maker(lambda: pictures), **more)


def distilled(spec: str, out: str, *more: str) -> Result:
    networks = ("--teacher", f"{NETS}:resnet(depth=14)", "--teacher-checkpoint", "teacher.pth", "--student", spec)
    quick = ("--steps-scale", "0.002", "--batch", "4", "--quiet", "--out", out)
    return call("distill", *networks, "--images", "photos", *quick, *more)


@pytest.mark.parametrize("spec", SPECS + DROPS)
def test_a_made_student_is_smaller_pairs_with_its_teacher_and_is_rebuilt_from_json(spec: str, teacher: Network) -> None:
    before = {name: tensor.clone() for name, tensor in teacher.module.state_dict().items()}
    student = made(spec, teacher)
    plan = plans.make(teacher, student)
    assert len(plan.blocks) == 3 and plan.student.params < plan.teacher.params
    again = rebuild(json.loads(json.dumps(student.origin)))
    again.load_state_dict(student.module.state_dict(), strict=True)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(again(images), student.module(images))
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.module.state_dict().items())


@pytest.mark.parametrize("spec", SPECS + DROPS)
def test_what_is_kept_is_the_teachers_at_the_recorded_channels(spec: str, teacher: Network) -> None:
    student = made(spec, teacher)
    kept = selections_of(student)
    for one in kept:
        source = teacher.module.get_submodule(one.teacher_layer)
        made_layer = student.module.get_submodule(one.layer)
        for name, tensor in made_layer.state_dict().items() if one.exact else ():
            assert torch.equal(tensor, selected_tensor(name, source.state_dict()[name], source, one)), (one.layer, name)
    recorded = {f"{one.layer}.{name}" for one in kept for name in student.module.get_submodule(one.layer).state_dict()}
    assert recorded == student.module.state_dict().keys()


def test_a_student_of_a_frozen_teacher_can_be_trained(teacher: Network) -> None:
    frozen = replace(teacher, module=copy.deepcopy(teacher.module).requires_grad_(False))
    student = made("prune:l1=0.5", frozen)
    assert all(parameter.requires_grad for parameter in student.module.parameters())


def test_other_networks_have_kept_nothing(teacher: Network) -> None:
    assert not is_derived(teacher) and selections_of(teacher) == ()


def test_random_weights_are_nowhere_the_teachers(teacher: Network) -> None:
    torch.manual_seed(0)
    student = made("prune:l1=0.5", teacher, checkpoint="none")
    inherited = made("prune:l1=0.5", teacher).module.state_dict()
    for name, tensor in student.module.state_dict().items():
        assert "num_batches" in name or not torch.equal(tensor, inherited[name]), name
    assert student.weights.is_random
    assert torch.equal(student.module.get_buffer("bn1.running_mean"), torch.zeros(16))


def test_a_checkpoint_is_loaded_into_a_made_student_or_refused(teacher: Network, place: Path) -> None:
    student = made("decouple", teacher)
    with torch.no_grad():
        student.module.get_parameter("linear.bias").add_(1)
    torch.save(student.module.state_dict(), place / "student.pth")
    loaded = made("decouple", teacher, checkpoint=place / "student.pth")
    assert same_weights(loaded.module, student.module)
    with pytest.raises(CheckpointError):
        made("decouple", teacher, checkpoint=place / "teacher.pth")


def test_a_student_can_be_made_of_a_made_one(teacher: Network) -> None:
    first = made("prune:l1=0.5", teacher)
    second = build("drop:layer1.1", like=first, role="student", derive=student_maker())
    again = rebuild(json.loads(json.dumps(second.origin)))
    again.load_state_dict(second.module.state_dict(), strict=True)
    assert second.name == "resnet-l1-0.5-drop-layer1.1"


def test_a_ranking_needs_images_and_a_unit_that_changes_shapes_cannot_go(teacher: Network) -> None:
    with pytest.raises(UsageError, match="images"):
        build("drop:auto=1", like=teacher, role="student", derive=student_maker())
    with pytest.raises(PairError, match=r"layer2\.0"):
        made("drop:layer2.0", teacher)


def test_both_networks_are_cut_at_the_same_places_but_behind_units_that_went() -> None:
    net = network(lambda: FlatVGG(8), "vgg", 32)
    vit = of_timm("vit_tiny_patch16_224", img_size=64, depth=4)
    for teacher, spec, expected in (
        (net, "decouple", ["features.2", "features.5"]),
        (vit, "drop:blocks.1", ["blocks.0", "blocks.2"]),
    ):
        student = student_maker()(spec, teacher)
        assert student is not None
        plan = plans.make(teacher, student)
        assert [cut.name for cut in plan.teacher.cuts] == [cut.name for cut in plan.student.cuts] == expected


def test_the_papers_cifar_students_meet_its_vgg16_block_by_block() -> None:
    teacher = network(vgg16, "vgg16", 32)
    half = student_maker()("teacher*(1,1,1,.5,.5)", teacher)
    assert half is not None
    plan = plans.make(teacher, half)
    assert [block.student.params for block in plan.blocks[:3]] == [block.teacher.params for block in plan.blocks[:3]]
    assert (len(plan.blocks), plan.teacher.params, plan.student.params) == (5, 14_983_498, 5_413_706)
    assert [block.seam.kind for block in plan.blocks if block.seam] == ["identity"] * 3 + ["adapter"]
    assert plan.stock
    other = plans.make(teacher, network(resnet18, "resnet18", 32))
    assert (len(other.blocks), other.student.params, other.stock) == (4, 11_173_962, True)


def test_layers_that_could_not_be_narrowed_are_named(teacher: Network) -> None:
    plan = plans.make(teacher, made("teacher*0.5", teacher))
    assert "`conv1`, `layer1.0.conv2`, `layer1.1.conv2` and 4 more keep the teacher's width" in plan.notes[0]
    assert plans.make(teacher, made("decouple", teacher)).notes == ()


def test_a_plan_shows_a_made_student_without_weights_or_images() -> None:
    result = call("plan", "--teacher", f"{NETS}:resnet(depth=14)", "--student", "prune:act=0.5", "--json")
    assert result.exit_code == 0, result.output + result.stderr
    assert json.loads(result.stdout)["student"]["name"] == "resnet-act-0.5"


@pytest.mark.parametrize(("spec", "out"), [("prune:act=0.5", "act"), ("lowrank:0.5", "low"), ("drop:auto=1", "auto")])
def test_a_made_student_is_distilled_and_loads_like_any_other(spec: str, out: str, place: Path) -> None:
    result = distilled(spec, out)
    assert result.exit_code == 0, result.output + result.stderr
    student = graftcli.load(place / out)
    assert student(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert not (place / out / "config.json").exists()
    assert is_derived_from_teacher(out) and is_derived_from_teacher(str(place / out / "model.safetensors"))
    assert "already done" in distilled(spec, out).output
    assert same_weights(build(out).module, student)


def test_a_run_starts_from_the_teachers_weights_unless_random_ones_are_requested(place: Path, teacher: Network) -> None:
    from graftcli.recipe.file import load
    from graftcli.runs.config import ModelPair
    from graftcli.runs.prepare import _student_weights

    recipe = load("graft", (), 1.0)
    for init, expected in (
        ("inherit", None),
        ("least-squares", None),
        ("pretrained", None),
        ("checkpoint", None),
        ("random", "none"),
    ):
        found = _student_weights(ModelPair("t", "prune:l1=0.5"), recipe.model_copy(update={"init": init}))
        assert found == expected, init


def test_what_a_made_student_keeps_is_not_inherited_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inherited: list[str] = []
    monkeypatch.setattr(engine_run, "inherit", lambda _, student, __: inherited.append(student.network.name))
    usual = engine.plan()
    student = student_maker()("prune:l1=0.3", usual.teacher.network)
    assert student is not None
    for plan in (plans.make(usual.teacher.network, student), usual):
        engine.trained(plan, engine.Memory(tmp_path))
    assert inherited == ["small"]


def test_part_of_a_made_student_stands_in_the_teacher_and_one_file_is_onnx(place: Path) -> None:
    assert distilled("teacher*0.5", "narrow").exit_code == 0
    result = call("partial", "--blocks", "2", "--run", "narrow", "--out", "partly", "--quiet")
    assert result.exit_code == 0, result.output + result.stderr
    hybrid = graftcli.load(place / "partly")
    assert hybrid(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    result = distilled("decouple", "one.onnx")
    assert result.exit_code == 0, result.output + result.stderr
    session = onnxruntime.InferenceSession(place / "one.onnx", providers=["CPUExecutionProvider"])
    assert session.run(["logits"], {"images": np.zeros((2, 3, 32, 32), np.float32)})[0].shape == (2, 10)
