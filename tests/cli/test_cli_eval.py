"""`graftcli eval`: a network and the files exported from it get the same scores."""

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from graftcli.api.evaluating import evaluate
from graftcli.cli import app
from graftcli.errors import PairError, UsageError
from graftcli.formats.options import ExportOptions
from graftcli.formats.write import write
from graftcli.runs.onnx_models import onnx_model
from graftcli.runs.scoring import PreprocessOptions, preprocess_for
from tests import tiny_onnx as files
from tests.exports import pixels, small, subject
from tests.image_files import folder_of, photos, saved
from tests.nets import NETS

CALLED = tuple(["cat", "dog", "bird", "deer", "frog", "horse", "ship", "truck", "car", "plane"])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, exports of them, and images that lie in folders of the classes that the network takes them for."""
    folder = tmp_path_factory.mktemp("scoring")
    torch.save(small().state_dict(), folder / "small.pth")
    made = replace(subject(small(), 32), facts={"classes": json.dumps(CALLED)})
    write(made, ExportOptions(), folder / "small.onnx")
    write(made, ExportOptions(static=True, pixels="nhwc"), folder / "static.onnx")
    with torch.no_grad():
        answers = made.module(made.to_inputs(made.images, ExportOptions())).argmax(1).tolist()
    drawn = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pixels(12, 32)]
    photos = {
        f"{CALLED[answer]}/{i}.png": saved(image) for i, (image, answer) in enumerate(zip(drawn, answers, strict=True))
    }
    folder_of(folder / "photos", photos)
    return folder


def test_a_file_is_scored_by_what_it_says_of_its_images_and_classes(place: Path) -> None:
    found = evaluate([str(place / "small.onnx"), str(place / "static.onnx")], place / "photos", device="cpu")
    assert found.rule == "the class names in the network's file"
    assert (found.preprocess.size, found.preprocess.mean, found.preprocess.crop_pct) == ((32, 32), (0.4, 0.5, 0.6), 1.0)
    for model in found.models:
        assert model.source == "onnx" and model.accuracy is not None and model.accuracy.top1.share == 1
    assert found.models[0].parameters == pytest.approx(sum(p.numel() for p in small().parameters()), rel=0.01)


def test_each_model_has_its_own_mean_and_std(place: Path, tmp_path: Path) -> None:
    """The same weights twice, once for far brighter images: alone and beside one another."""
    other = subject(small(), 32)
    other = replace(other, preprocess=replace(other.preprocess, mean=(9.0,) * 3, std=(0.1,) * 3))
    write(replace(other, facts={"classes": json.dumps(CALLED)}), ExportOptions(), tmp_path / "pale.onnx")
    one, pale = str(place / "small.onnx"), str(tmp_path / "pale.onnx")
    alone = [evaluate([model], place / "photos", device="cpu").models[0].accuracy for model in (one, pale)]
    assert alone[0] != alone[1]
    for models in ((one, pale), (pale, one)):
        scored = evaluate(models, place / "photos", device="cpu").models
        assert {model.name: model.accuracy for model in scored} == {"small.onnx": alone[0], "pale.onnx": alone[1]}


def test_weights_beside_a_file_that_has_its_own_are_refused(place: Path) -> None:
    with pytest.raises(UsageError, match="contains its weights"):
        evaluate([str(place / "small.onnx")], place / "photos", checkpoint=place / "small.pth")


def test_answers_that_are_no_numbers_are_null_in_json(place: Path, tmp_path: Path) -> None:
    weights = torch.load(place / "small.pth", weights_only=True)
    torch.save(weights | {"linear.bias": torch.tensor([3e38, -3e38] * 5)}, tmp_path / "far.pth")
    named = ["eval", f"{NETS}:resnet(depth=8)", "--checkpoint", str(tmp_path / "far.pth")]
    teacher = ["--teacher", f"{NETS}:resnet(depth=8)", "--teacher-checkpoint", str(place / "small.pth")]
    images = next(folder for folder in (place / "photos").iterdir())  # without folders in it: no classes are required
    result = CliRunner().invoke(app, [*named, *teacher, "--images", str(images), "--img-size", "32", "--json"])
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["models"][0]["likeness"]["kl"] is None


def test_images_without_classes_are_scored_beside_a_teacher_alone(place: Path, tmp_path: Path) -> None:
    photos(tmp_path, ["flat/a.png", "flat/b.png"])
    with pytest.raises(UsageError, match="no class folders, and no teacher is given") as caught:
        evaluate([str(place / "small.onnx")], tmp_path / "flat")
    assert "--teacher" in caught.value.fix
    found = evaluate([str(place / "small.onnx")], tmp_path / "flat", teacher=str(place / "small.onnx"))
    assert found.models[0].likeness is not None


def test_a_file_agrees_with_the_network_that_it_was_made_of(place: Path) -> None:
    look: dict[str, Any] = {"crop_pct": 1.0, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}
    named: dict[str, Any] = {"teacher": f"{NETS}:resnet(depth=8)", "teacher_checkpoint": place / "small.pth"}
    flat = place / "flat"
    folder_of(flat, {f"{i}.png": file.read_bytes() for i, file in enumerate((place / "photos").rglob("*.png"))})
    found = evaluate([str(place / "static.onnx")], flat, device="cpu", **look, **named)
    (scored,) = found.models
    assert scored.accuracy is None and scored.likeness is not None
    assert scored.likeness.agreement.share == 1 and scored.likeness.kl < 1e-5


def test_a_student_made_from_the_teacher_is_scored_as_it_is_before_training(place: Path) -> None:
    look: dict[str, Any] = {"crop_pct": 1.0, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}
    named: dict[str, Any] = {"teacher": f"{NETS}:resnet(depth=8)", "teacher_checkpoint": place / "small.pth"}
    folder_of(
        place / "unlabelled", {f"{name}.png": saved(Image.new("RGB", (32, 32), name)) for name in ("teal", "red")}
    )
    found = evaluate(["teacher*1", "teacher*0.5"], place / "unlabelled", device="cpu", **look, **named)
    same, half = found.models
    assert same.likeness is not None and same.likeness.kl == pytest.approx(0, abs=1e-6)
    assert half.likeness is not None and half.likeness.kl > 1e-4
    assert half.parameters < 0.6 * same.parameters


@pytest.mark.parametrize(
    ("spec", "teacher", "answers"),
    [
        ("prune:l1=0.3", None, "`prune:l1=0.3` is derived from a teacher, but no teacher is given."),
        ("prune:act=0.3", f"{NETS}:resnet(depth=8)", "`prune:act=0.3` is derived with training images"),
        ("drop:auto=2", f"{NETS}:resnet(depth=8)", "`drop:auto=2` is derived with training images"),
    ],
)
def test_a_student_that_cannot_be_made_here(place: Path, spec: str, teacher: str | None, answers: str) -> None:
    with pytest.raises(UsageError, match=re.escape(answers)):
        evaluate([spec], place / "photos", teacher=teacher, teacher_checkpoint=teacher and "none", device="cpu")


def test_files_of_other_classes_are_not_scored_together(place: Path) -> None:
    other = files.write(place / "other.onnx", files.Tiny(classes=5), size=32)
    with pytest.raises(PairError, match=r"`small.onnx` has 10 classes, `other.onnx` has 5"):
        evaluate([str(place / "small.onnx"), str(other)], place / "photos", device="cpu")


def test_files_for_images_of_different_sizes_are_not_scored_together(place: Path, tmp_path: Path) -> None:
    write(subject(small(), 48), ExportOptions(static=True), tmp_path / "larger.onnx")
    with pytest.raises(PairError, match=r"has input size 32x32, `larger.onnx` has 48x48") as refused:
        evaluate([str(place / "static.onnx"), str(tmp_path / "larger.onnx")], place / "photos", device="cpu")
    assert "--img-size" in refused.value.fix


@pytest.mark.parametrize("teacher", ["timm:resnet10t", "timm:test_vit"])
def test_a_teacher_sees_images_of_the_size_of_what_is_scored(place: Path, teacher: str) -> None:
    images = next(folder for folder in (place / "photos").iterdir())
    score = partial(
        evaluate,
        [f"{NETS}:resnet(depth=8,num_classes=1000)"],
        images,
        teacher=teacher,
        device="cpu",
        checkpoint="none",
        teacher_checkpoint="none",
    )
    assert score().preprocess.size == (32, 32)
    assert score(img_size=64).preprocess.size == (64, 64)


def test_the_user_has_the_last_word_and_imagenet_the_first(place: Path) -> None:
    model = onnx_model(place / "small.onnx")
    mute = onnx_model(files.write(place / "mute.onnx", files.Tiny()))
    assert (
        preprocess_for(model, PreprocessOptions(mean=(0.0, 0.0, 0.0))).mean == (0.0, 0.0, 0.0)
        and not model.lacks_normalization
    )
    assert (mute.preprocess.mean[0], mute.input_size, mute.num_classes, mute.lacks_normalization) == (
        0.485,
        (3, 16, 16),
        5,
        True,
    )


@pytest.mark.parametrize("command", ["bench", "eval"])
def test_both_commands_need_no_flags_for_a_file(place: Path, command: str) -> None:
    quick = ["--seconds", "0", "--threads", "1", "-b", "2"] if command == "bench" else ["--device", "cpu"]
    words = [command, str(place / "small.onnx"), "--images", str(place / "photos"), "--json", *quick]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output + result.stderr
    found = json.loads(result.stdout)
    assert "class names in the network's file" in found["rule"]
    top1 = found["rungs"][0]["top1"] if command == "bench" else found["models"][0]["accuracy"]["top1"]["share"]
    assert top1 == 1
    assert "normalised" not in result.stderr


def test_a_file_without_its_preprocessing_is_named(place: Path) -> None:
    file = files.write(place / "silent.onnx", files.Tiny(classes=10), size=32)
    words = ["bench", str(file), "--images", str(place / "photos"), "--seconds", "0", "--classes", str(place / "names")]
    (place / "names").write_text("\n".join(CALLED))
    result = CliRunner().invoke(app, [*words, "-b", "2"])
    assert result.exit_code == 0, result.output + result.stderr
    assert "silent.onnx has no mean and std in its metadata" in result.stderr


def test_logits_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    (tmp_path / "nan.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Linear):\n"
        "    def forward(self, x): return super().forward(x.flatten(1)).log()\n"
        "def net(): return Net(3 * 16 * 16, 4)\n"
    )
    photos(tmp_path, [f"3_a/{i}.png" for i in range(3)])
    words = [
        "eval",
        f"{tmp_path / 'nan.py'}:net",
        "--images",
        str(tmp_path),
        "--img-size",
        "16",
        "--checkpoint",
        "none",
    ]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 6 and "logits that are not finite for" in result.stderr
