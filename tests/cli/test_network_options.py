"""Spec, checkpoint, flags and teacher must agree on a network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import torchvision

from graftcli.errors import CheckpointError, PairError, UsageError
from graftcli.models.loading.build import build
from graftcli.models.network import PreprocessDefaults
from graftcli.models.origin import Origin
from tests.nets import randomise, resnet


def checkpoint(folder: Path, num_classes: int, in_chans: int = 3) -> Path:
    torch.save(
        timm.create_model("resnet10t", num_classes=num_classes, in_chans=in_chans).state_dict(), folder / "w.pth"
    )
    return folder / "w.pth"


@pytest.mark.parametrize("role", ["teacher", "model", "student"])
def test_random_weights_are_recorded_as_random_and_only_a_students_follow_the_seed(role: str) -> None:
    firsts = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        net = build("resnet10t", checkpoint="none", role=role)
        assert net.weights.is_random
        firsts.append(net.module.get_parameter("fc.weight"))
    assert torch.equal(firsts[0], firsts[1])
    assert torch.equal(firsts[0], firsts[2]) is (role != "student")


def test_a_network_is_in_eval_mode_and_single_precision() -> None:
    for spec in ("timm:resnet10t", "torchvision:squeezenet1_1", "tests.nets:resnet"):
        module = build(spec, checkpoint="none").module
        assert not any(part.training for part in module.modules())
        assert {tensor.dtype for tensor in module.state_dict().values()} <= {torch.float32, torch.int64}


def test_the_checkpoint_decides_over_the_networks_own_numbers(tmp_path: Path) -> None:
    net = build("resnet10t", checkpoint=checkpoint(tmp_path, 7, in_chans=1))
    assert (net.num_classes, net.input_size[0]) == (7, 1)
    assert net.origin["kind"] == "timm" and net.origin["kwargs"] == {"num_classes": 7, "in_chans": 1}
    torch.save(torchvision.models.resnet18(num_classes=5).state_dict(), tmp_path / "r18.pth")
    assert build("torchvision:resnet18", checkpoint=tmp_path / "r18.pth").num_classes == 5
    torch.save(resnet(8, num_classes=20).state_dict(), tmp_path / "mine.pth")
    assert build("tests.nets:resnet(depth=8)", checkpoint=tmp_path / "mine.pth").num_classes == 20


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"num_classes": 10}, "has 7 classes; --num-classes is 10"),
        ({"in_chans": 3}, "has 1 input channels; --in-chans is 3"),
    ],
)
def test_a_flag_against_the_checkpoint_is_refused(tmp_path: Path, options: dict[str, int], expected: str) -> None:
    with pytest.raises(CheckpointError, match=expected) as caught:
        build("resnet10t", checkpoint=checkpoint(tmp_path, 7, in_chans=1), **options)  # type: ignore[arg-type]
    assert "Remove --" in caught.value.fix


def test_a_flag_that_agrees_with_the_checkpoint_is_no_matter(tmp_path: Path) -> None:
    assert build("resnet10t", checkpoint=checkpoint(tmp_path, 7), num_classes=7, in_chans=3).num_classes == 7


@pytest.mark.parametrize(
    "spec", ["timm:mobilenetv3_small_100", "torchvision:squeezenet1_1", "tests.nets:resnet(depth=8)"]
)
def test_a_student_is_built_like_its_teacher(spec: str) -> None:
    teacher = build("torchvision:resnet18", checkpoint="none", num_classes=12, img_size=96)
    student = build(spec, checkpoint="none", like=teacher, role="student")
    assert (student.num_classes, student.input_size) == (12, (3, 96, 96))
    assert student.preprocess == teacher.preprocess
    assert student.origin["num_classes"] == 12


def test_a_students_flags_against_its_teacher_are_refused() -> None:
    teacher = build("resnet10t", checkpoint="none", num_classes=12)
    with pytest.raises(PairError, match="the teacher has 12"):
        build("resnet10t", checkpoint="none", num_classes=7, like=teacher, role="student")
    with pytest.raises(PairError, match="3 input channels; --in-chans is 1"):
        build("tests.nets:resnet", in_chans=1)


def test_a_students_checkpoint_against_its_teacher_is_refused(tmp_path: Path) -> None:
    teacher = build("resnet10t", checkpoint="none", num_classes=12)
    with pytest.raises(
        PairError, match=r"The teacher has 12 classes; the student checkpoint `.*w.pth` has 7\."
    ) as caught:
        build("resnet10t", checkpoint=checkpoint(tmp_path, 7), like=teacher, role="student")
    assert "--student-checkpoint none" in caught.value.fix
    assert build("resnet10t", checkpoint=checkpoint(tmp_path, 12), like=teacher, role="student").num_classes == 12


def test_a_checkpoint_of_another_network_is_refused_with_both_lists(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        build("timm:resnet18", checkpoint=checkpoint(tmp_path, 1000))
    for part in (
        "`resnet18`",
        "In the network only",
        "In the checkpoint only",
        "Different shapes",
        "layer1.1.conv1.weight (64x64x3x3)",
    ):
        assert part in caught.value.message


@pytest.mark.parametrize("options", [{"num_classes": 0}, {"in_chans": -1}, {"img_size": 0}, {"img_size": (32, 0)}])
def test_numbers_below_one_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="--"):
        build("resnet10t", checkpoint="none", **options)  # type: ignore[arg-type]


def test_preprocessing_for_other_channels_is_the_average() -> None:
    colour = PreprocessDefaults((0.2, 0.4, 0.6), (0.1, 0.2, 0.3), 0.9, "bicubic")
    assert colour.for_channels(3) is colour
    grey = colour.for_channels(1)
    assert grey.mean == pytest.approx((0.4,))
    assert grey.std == pytest.approx((0.2,))


def test_an_origin_makes_the_network_again_in_a_fresh_process(tmp_path: Path) -> None:
    origins: list[Origin] = []
    for spec in ("timm:vit_tiny_patch16_224", "torchvision:squeezenet1_1", "tests/nets.py:resnet(depth=8)"):
        net = build(spec, checkpoint="none", num_classes=5, img_size=64)
        torch.save(randomise(net.module).state_dict(), tmp_path / f"{len(origins)}.pth")
        origins.append(net.origin)
    (tmp_path / "origins.json").write_text(json.dumps(origins))
    program = (
        "import json, sys, torch; from pathlib import Path; from graftcli.models.loading.build import rebuild\n"
        "here = Path(sys.argv[1])\n"
        "for i, origin in enumerate(json.loads((here / 'origins.json').read_text())):\n"
        "    rebuild(origin).load_state_dict(torch.load(here / f'{i}.pth'), strict=True)\n"
    )
    root = str(Path(__file__).parents[2])
    run = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(run, env={**os.environ, "PYTHONPATH": root}, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
