"""The data of the demo: how it is split, the rendered images, the accuracy of the teacher."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.random import RandomState
from safetensors import safe_open

from graftcli import demo
from graftcli.api.evaluating import evaluate
from graftcli.demo import train_teacher
from graftcli.demo.scenes import GRAIN, SIDE, SLOPE, scenes
from graftcli.errors import MachineError
from graftcli.images import Images, labels, load
from graftcli.models.cuts.plan import make
from graftcli.models.loading.build import build
from graftcli.runs.scoring import PreprocessOptions, preprocess_for


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read_back(folder: Path) -> Images:
    """Load the images of a folder with the preprocessing of the demo's networks."""
    return load(folder, preprocess_for(build(demo.TEACHER, checkpoint="none"), PreprocessOptions()), strict=True)


def pixels(pictures: torch.Tensor) -> list[bytes]:
    return sorted(picture.numpy().tobytes() for picture in pictures)


# -- the data and its parts ---------------------------------------------------------------------------------------


def test_the_digits_are_those_of_the_published_file_row_by_row() -> None:
    strokes, classes = demo.digits()
    table = np.concatenate([strokes.reshape(-1, 64), classes[:, None]], axis=1)
    assert table.shape == (1797, 65)
    assert sha256(table.tobytes()) == "68aea062d35a127749050fa0e52dca09d6569ac08092c925610e0954e172dde2"


def test_no_digit_is_in_two_parts() -> None:
    parts = [set(range(demo.TRAIN_ROWS)), set(demo.few_shot_rows().tolist()), set(demo.held_out_rows().tolist())]
    assert [len(part) for part in parts] == [1000, 100, 697]
    assert set.union(*parts) == set(range(1797))


def test_the_distillation_images_are_ten_per_class() -> None:
    classes = demo.digits()[1][demo.few_shot_rows()]
    assert np.bincount(classes).tolist() == [10] * 10


def test_the_package_carries_little_and_says_whose_digits_they_are() -> None:
    assert sum(file.stat().st_size for file in demo.HERE.iterdir() if file.is_file()) < 650_000
    notice = (demo.HERE / "LICENSE-digits.txt").read_text(encoding="utf-8")
    for due in ("Alpaydin", "Kaynak", "https://doi.org/10.24432/C50P49", "creativecommons.org/licenses/by/4.0"):
        assert due in notice


# -- the pictures -------------------------------------------------------------------------------------------------


def test_the_pictures_are_the_same_bytes_on_every_machine() -> None:
    pictures, classes = demo.held_out()
    assert (pictures.dtype, pictures.shape) == (torch.uint8, (697, 1, 32, 32))
    assert sha256(pictures.numpy().tobytes()) == "f1fd6ff9b6000a4d41a367071bc08194a07c9a5904c2e2a3377326bfcc3af7cc"
    assert sha256(demo.images().numpy().tobytes()) == "744b84e325b091f5e7ee3eaad22593054c291980fa69a3bc51699134927dce65"
    assert classes.tolist() == demo.digits()[1][demo.held_out_rows()].tolist()


def test_a_scene_without_a_digit_is_background_and_noise() -> None:
    blank = scenes(np.zeros((50, 8, 8), np.uint8), RandomState(0)).astype(int)
    across, down = np.abs(np.diff(blank, axis=2)), np.abs(np.diff(blank, axis=1))
    assert max(across.max(), down.max()) <= 2 * GRAIN + SLOPE


def test_a_digit_lies_somewhere_else_in_each_scene_and_half_are_negatives() -> None:
    digit = demo.digits()[0][:1].repeat(200, 0)
    pictures = scenes(digit, RandomState(0))
    assert len({picture.tobytes() for picture in pictures}) == 200
    dark = int((pictures.mean((1, 2)) < 128).sum())
    assert 70 < dark < 130
    ink = np.abs(pictures - np.median(pictures, axis=(1, 2), keepdims=True)).mean(0)
    assert ink[:SIDE, :SIDE].min() > 10  # no place stays empty


def test_the_folder_to_distil_from_is_flat_and_tells_no_class(tmp_path: Path) -> None:
    demo.write_images(tmp_path / "images")
    assert len(list((tmp_path / "images").glob("*.png"))) == 100
    found = read_back(tmp_path / "images")
    assert pixels(found.pixels) == pixels(demo.images())
    assert labels.read(tmp_path / "images", found.names, 10) is None


def test_the_folder_to_score_on_gives_the_pictures_and_their_classes_back(tmp_path: Path) -> None:
    demo.write_held_out(tmp_path)
    found = read_back(tmp_path)
    found_labels = labels.read(tmp_path, found.names, 10)
    assert found_labels is not None and found_labels.classes == tuple("0123456789")
    pictures, classes = demo.held_out()
    pairs = {picture.numpy().tobytes(): int(label) for picture, label in zip(pictures, classes, strict=True)}
    for picture, label in zip(found.pixels, found_labels.indices, strict=True):
        assert pairs[picture.numpy().tobytes()] == int(label)


def test_a_file_where_the_folder_should_be_is_one_clear_message(tmp_path: Path) -> None:
    (tmp_path / "images").write_text("in the way")
    with pytest.raises(MachineError, match="is a file, not a folder"):
        demo.write_images(tmp_path / "images")


# -- the networks -------------------------------------------------------------------------------------------------


def test_teacher_and_student_are_cut_into_three_blocks_that_need_no_adapter() -> None:
    teacher = build(demo.TEACHER, checkpoint=demo.TEACHER_WEIGHTS)
    student = build(demo.STUDENT, checkpoint="none", like=teacher, role="student")
    plan = make(teacher, student)
    assert [(block.teacher.last, block.student.last) for block in plan.blocks] == [
        ("layer1", "layer1"),
        ("layer2", "layer2"),
        ("head", "head"),
    ]
    assert plan.stock
    assert [plan.teacher.params, plan.student.params] == [255_970, 75_106]
    assert all(block.student.params * 2.5 < block.teacher.params for block in plan.blocks)


def test_the_teacher_scores_what_its_file_says(tmp_path: Path) -> None:
    demo.write_held_out(tmp_path)
    [scored] = evaluate([demo.TEACHER], tmp_path, checkpoint=demo.TEACHER_WEIGHTS, device="cpu").models
    assert scored.accuracy is not None
    with safe_open(demo.TEACHER_WEIGHTS, "pt") as file:
        facts = json.loads(file.metadata()["training"])
    assert scored.accuracy.top1.share == pytest.approx(
        facts["held_out_top1"], abs=0.003
    )  # sums differ between machines
    assert scored.accuracy.top1.share >= 0.975
    assert facts["epochs"] == train_teacher.EPOCHS


def test_training_twice_gives_the_same_file_that_loads_as_the_teacher(tmp_path: Path) -> None:
    for name in ("one.safetensors", "two.safetensors"):
        train_teacher.make(tmp_path / name, epochs=1)
    one, two = ((tmp_path / name).read_bytes() for name in ("one.safetensors", "two.safetensors"))
    assert one == two
    assert one != demo.TEACHER_WEIGHTS.read_bytes()
    assert len(one) == pytest.approx(demo.TEACHER_WEIGHTS.stat().st_size, abs=100)
    network = build(demo.TEACHER, checkpoint=tmp_path / "one.safetensors")
    assert "one.safetensors" in str(network.weights)
