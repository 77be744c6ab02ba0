"""`graftcli export` as a user meets it: runs, hybrids, files and specs, with the images that belong to them."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

import graftcli
from graftcli import export
from graftcli.api import benching
from graftcli.cli import app
from graftcli.errors import UsageError
from graftcli.events import Event, Warned
from graftcli.formats.options import FORMATS, ExportOptions
from graftcli.images.pixels import normalise
from graftcli.store.run_file import read_record
from tests.exports import pixels, preprocess, small
from tests.image_files import folder_of, saved
from tests.nets import NETS

pytestmark = pytest.mark.usefixtures("inside")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, weights, a whole run and a hybrid."""
    folder = tmp_path_factory.mktemp("place")
    drawn = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pixels(12, 32)]
    folder_of(folder, {f"photos/{index}.png": saved(image) for index, image in enumerate(drawn)})
    torch.save(small(14).state_dict(), folder / "teacher.pth")
    torch.save(small().state_dict(), folder / "small.pth")
    given: dict[str, Any] = {
        "teacher": f"{NETS}:resnet(depth=14)",
        "student": f"{NETS}:resnet(depth=8)",
        "images": folder / "photos",
        "teacher_checkpoint": folder / "teacher.pth",
        **{"steps_scale": 0.005, "batch": 4, "device": "cpu"},
    }
    graftcli.distill(**given, out=folder / "run")
    graftcli.partial(3, **given, out=folder / "hybrid")
    return folder


def call(*words: str) -> Result:
    return CliRunner().invoke(app, ["export", *words])


def props(file: str | Path) -> dict[str, str]:
    return {one.key: one.value for one in onnx.load(file).metadata_props}


def test_a_run_is_exported_into_its_folder_on_its_own_images(place: Path) -> None:
    ran = call("run", "--json")
    assert ran.exit_code == 0, ran.stderr
    document = json.loads(ran.stdout)
    assert "ladder" not in document and not (place / "run/bench.json").exists()
    assert (document["path"], document["images"], document["noise"]) == ("run/student.onnx", 12, False)
    assert document["size"] == (place / "run/student.onnx").stat().st_size
    about = props("run/student.onnx")
    assert (about["teacher"], about["student"]) == ("resnet", "resnet")
    assert about["images_sha256"] == read_record(place / "run").settings.images
    images = torch.randn(3, 3, 32, 32)
    (given,) = onnxruntime.InferenceSession("run/student.onnx").run(None, {"images": images.numpy()})
    with torch.no_grad():
        wanted = graftcli.load("run")(images).numpy()
    np.testing.assert_allclose(given, wanted, rtol=1e-3, atol=1e-4)


def test_a_benchmark_is_added_where_it_is_asked_for(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benching, "QUICK_SECONDS", 0.0)
    ran = call("run", "--out", "benched.onnx", "--bench", "--json")
    assert ran.exit_code == 0, ran.stderr
    assert [entry["format"] for entry in json.loads(ran.stdout)["ladder"]["rungs"]][-1] == "onnx"
    assert (place / "run/bench.json").exists()
    (place / "run/bench.json").unlink()


def test_an_existing_file_is_replaced_only_with_overwrite() -> None:
    Path("mine.onnx").write_bytes(b"mine")
    refused = call("run", "--out", "mine.onnx")
    assert refused.exit_code == 2 and "`mine.onnx` exists" in refused.stderr
    assert Path("mine.onnx").read_bytes() == b"mine"
    assert call("run", "--out", "mine.onnx", "--overwrite", "--quiet").exit_code == 0
    assert props("mine.onnx")["student"]


def test_a_hybrid_is_exported_and_says_whose_its_blocks_are() -> None:
    ran = call("hybrid", "--bake-preprocess", "nhwc", "--classes", "names.txt")
    assert ran.exit_code == 2 and "names.txt" in ran.stderr
    Path("names.txt").write_text("\n".join("abcdefghij"))
    ran = call("hybrid", "--bake-preprocess", "nhwc", "--classes", "names.txt")
    assert ran.exit_code == 0, ran.stderr
    assert "written: hybrid/hybrid.onnx" in ran.stdout
    about = props("hybrid/hybrid.onnx")
    assert json.loads(about["blocks"]) == ["teacher", "teacher", "student"]
    assert json.loads(about["classes"]) == list("abcdefghij")


@pytest.mark.parametrize("name", ["run", "hybrid"])
def test_exports_in_a_runs_folder_belong_to_the_run(name: str, place: Path) -> None:
    """`distill --overwrite` replaces them, as every other file of the run, and says so."""
    forms = [ExportOptions(known, precision) for known in FORMATS for precision in FORMATS[known].precisions]
    (place / "other").mkdir(exist_ok=True)
    (place / "other" / "notes.txt").write_text("mine")
    networks = f"{NETS}:resnet(depth=14)", f"{NETS}:resnet(depth=8)"
    with pytest.raises(UsageError, match="is not a run") as refused:
        graftcli.distill(*networks, place / "photos", teacher_checkpoint="none", device="cpu", out=place / "other")
    base = "student" if name == "run" else "hybrid"
    assert all(f" {base}{form.suffix}" in refused.value.fix for form in forms)


@pytest.mark.parametrize("name", ["run", "hybrid"])
def test_weights_alone_in_a_file_are_the_networks(name: str) -> None:
    ran = call(name, "--format", "safetensors", "--out", f"{name}.safetensors")
    assert ran.exit_code == 0, ran.stderr
    one, other = graftcli.load(name).state_dict(), graftcli.load(f"{name}.safetensors").state_dict()
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert not list(Path().glob(".*tmp"))


def test_a_spec_with_a_checkpoint_is_exported_on_given_images() -> None:
    ran = call(f"{NETS}:resnet(depth=8)", "--checkpoint", "small.pth", "--images", "photos", "--crop-pct", "1")
    assert ran.exit_code == 0, ran.stderr
    assert "of 12 images\n" in ran.stdout and "written: resnet.onnx" in ran.stdout
    images = normalise(pixels(2, 32), preprocess(32)).numpy()
    (given,) = onnxruntime.InferenceSession("resnet.onnx").run(None, {"images": images})
    with torch.no_grad():
        np.testing.assert_allclose(given, small()(torch.from_numpy(images)).numpy(), rtol=1e-3, atol=1e-4)


def test_without_images_the_comparison_on_noise_is_named_and_int8_refused() -> None:
    words = (f"{NETS}:resnet(depth=8)", "--checkpoint", "small.pth", "--out", "noise.onnx")
    ran = call(*words)
    assert ran.exit_code == 0, ran.stderr
    assert "on noise only" in ran.stderr and "noise images" in ran.stdout
    ran = call(*words, "--overwrite", "--precision", "int8")
    assert ran.exit_code == 2 and "--calib" in ran.stderr


def test_images_that_moved_or_changed_are_named(place: Path) -> None:
    shutil.copytree("run", "moved")
    events: list[Event] = []
    shutil.move("photos", "elsewhere")
    try:
        assert export("moved", static=True, out="moved.onnx", listen=events.append).noise
        shutil.copytree("elsewhere", "photos")
        (place / "photos/0.png").unlink()
        export("moved", static=True, out="moved.onnx", listen=events.append, overwrite=True)
    finally:
        shutil.rmtree("photos", ignore_errors=True)
        shutil.move("elsewhere", "photos")
    warnings = " ".join(event.text for event in events if isinstance(event, Warned))
    assert (
        "images of the run are missing" in warnings
        and "on noise only" in warnings
        and "images differ from those" in warnings
    )


def test_a_gate_that_fails_exits_with_4_and_the_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    zeros = np.zeros((1, 10), np.float32)
    monkeypatch.setattr(
        "graftcli.formats.runtime.onnx_runner", lambda data: lambda images: zeros.repeat(len(images), 0)
    )
    ran = call("run", "--out", "gate.onnx")
    assert ran.exit_code == 4 and not Path("gate.onnx").exists()
    assert re.search(r"on \d+\.\d\d% of 12 images; 100.00% is required.*1\.0e\+00 of the largest", ran.stderr)


def test_a_hybrid_has_the_image_size_that_it_was_made_for() -> None:
    ran = call("hybrid", "--img-size", "64")
    assert ran.exit_code == 2 and "--img-size" in ran.stderr


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["run", "--format", "tflite"], 2, "onnx, pt2, safetensors"),
        (["run", "--opset", "17"], 2, "18"),
        (["run", "--images", "nowhere", "--out", "a.onnx"], 5, "nowhere"),
        (["nothing.safetensors"], 6, "nothing"),
    ],
)
def test_bad_arguments_are_refused_with_one_message(words: list[str], code: int, expected: str) -> None:
    ran = call(*words)
    assert ran.exit_code == code, ran.stderr
    assert expected in ran.stderr and "Traceback" not in ran.stderr
