"""`graftcli bench` as a user meets it."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from graftcli.api import benching
from graftcli.cli import app
from graftcli.events import Event, Warned
from graftcli.formats import write as export
from graftcli.formats.options import ExportOptions
from graftcli.measure.benchmark import BenchEntry, benchmark
from graftcli.measure.candidate import Candidate
from tests.exports import small, subject
from tests.image_files import folder_of, noise, saved
from tests.nets import NETS, randomise, resnet
from tests.records import write_document
from tests.tiny_onnx import Tiny, write

QUICK = ("--seconds", "0", "--threads", "1", "-b", "2")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, a teacher's weights and a finished run."""
    folder = tmp_path_factory.mktemp("bench")
    folder_of(folder / "photos", {f"{i % 3}_kind/{i}.png": saved(noise(32, 32, i)) for i in range(9)})
    torch.manual_seed(0)
    torch.save(randomise(resnet(depth=14)).state_dict(), folder / "teacher.pth")
    here, threads = Path.cwd(), torch.get_num_threads()
    os.chdir(folder)
    teacher = ("--teacher", f"{NETS}:resnet(depth=14)", "--teacher-checkpoint", "teacher.pth")
    student = ("--student", f"{NETS}:resnet(depth=8)", "--images", "photos", "--batch", "8", "--steps-scale", "0.01")
    try:
        for command in (
            ["distill", *teacher, *student, "--out", "run", "--quiet"],
            ["partial", "--blocks", "3", "--run", "run", "--out", "hybrid", "--quiet"],
        ):
            result = CliRunner().invoke(app, command)
            assert result.exit_code == 0, result.output + result.stderr
    finally:
        os.chdir(here)
        torch.set_num_threads(threads)
    return folder


@pytest.fixture(autouse=True)
def without_earlier_results(inside: None, place: Path) -> Iterator[None]:
    yield
    (place / "run" / "bench.json").unlink(missing_ok=True)


def call(*words: str) -> Result:
    return CliRunner().invoke(app, ["bench", *words, *QUICK])


def test_benchmarking_a_run_includes_its_teacher_student_and_images(place: Path) -> None:
    result = call("run", "--json")
    assert result.exit_code == 0, result.output + result.stderr
    found = json.loads(result.stdout)
    assert [rung["name"] for rung in found["rungs"]] == ["resnet (teacher)", "resnet (student)"]
    assert (found["images"], found["source"], found["threads"]) == (9, str(place / "photos"), 1)
    teacher, student = found["rungs"]
    assert teacher["agreement"] == 1 and 0 <= student["agreement"] <= 1
    assert teacher["ratio"] == 1 and student["macs"] < teacher["macs"]
    assert student["bytes"] == (place / "run" / "model.safetensors").stat().st_size
    assert json.loads((place / "run" / "bench.json").read_text()) == found["rungs"]


def test_every_onnx_file_of_the_run_is_benchmarked_once(place: Path) -> None:
    torch.manual_seed(0)
    file = write(place / "run" / "b.onnx", Tiny(classes=10), size=32)
    shutil.copyfile(file, place / "named.onnx")
    result = call("run", "run/b.onnx", "named.onnx", "--json")
    file.unlink()
    assert result.exit_code == 0, result.output + result.stderr
    assert [rung["name"] for rung in json.loads(result.stdout)["rungs"]][2:] == ["b.onnx", "named.onnx"]


def test_a_runs_files_stand_from_fp32_down_to_int8(place: Path) -> None:
    made = {"a": {"quantised": True}, "b": {"kind": "float16"}, "c": {}}
    files = [write(place / "run" / f"{name}.onnx", Tiny(classes=10), size=32, **how) for name, how in made.items()]  # type: ignore[arg-type]
    result = call("run", "--json")
    for file in files:
        file.unlink()
    assert result.exit_code == 0, result.output + result.stderr
    assert [rung["precision"] for rung in json.loads(result.stdout)["rungs"][2:]] == ["fp32", "fp16", "int8"]


def test_class_folders_give_top_one(place: Path) -> None:
    result = call("run", "--images", "photos")
    assert result.exit_code == 0, result.output + result.stderr
    assert "top-1" in result.stdout
    assert "classes: the leading number of the folder name" in result.stdout
    assert "1 thread\n" in result.stdout


def test_a_runs_own_folder_names_are_never_read(place: Path) -> None:
    assert "top-1" not in call("run").stdout


def test_a_hybrid_is_measured_too() -> None:
    result = call("hybrid", "--json")
    assert result.exit_code == 0, result.output + result.stderr
    names = [rung["name"] for rung in json.loads(result.stdout)["rungs"]]
    assert names == ["resnet (teacher)", "block 3 replaced (student)"]


def test_a_teacher_of_random_weights_is_the_one_that_the_run_had(place: Path) -> None:
    networks = ("--teacher", f"{NETS}:resnet(depth=14)", "--teacher-checkpoint", "none", "--student", "drop:layer2.1")
    rates = [f"--set=stages.{stage}.lr=1e-12" for stage in ("graft", "finish")] + [
        "--set=stages.finish.batchnorm=frozen"
    ]
    how = ("--images", "photos", "--batch", "8", "--steps-scale", "0.0001", "--out", "chance", "--quiet", "--seed", "3")
    result = CliRunner().invoke(app, ["partial", "--blocks", "3", *networks, *rates, *how])
    assert result.exit_code == 0, result.output + result.stderr
    found = json.loads(call("chance", "--json").stdout)["rungs"]
    assert found[1]["agreement"] == 1  # its block is the teacher's own, and hardly trained


def test_no_bench_json_is_written_to_a_run_with_another_teacher(place: Path) -> None:
    shutil.copytree("run", "other")
    run = json.loads((place / "other/run.json").read_text())
    run["sessions"][-1]["config"]["networks"]["teacher_checkpoint"] = str(place / "another.pth")
    write_document(place / "other", run)
    result = call("run", "other")
    assert result.exit_code == 0, result.output + result.stderr
    assert "other was measured with a different teacher" in result.stderr
    assert (place / "run/bench.json").exists() and not (place / "other/bench.json").exists()
    (place / "run/bench.json").unlink()
    call("run", "--teacher", f"{NETS}:resnet(depth=14)", "--teacher-checkpoint", "none")  # other weights
    assert not (place / "run/bench.json").exists()
    call("run", "--teacher", f"{NETS}:resnet(depth=14)", "--teacher-checkpoint", "teacher.pth")
    assert (place / "run/bench.json").exists()


def test_specs_are_measured_without_a_run_or_images() -> None:
    specs = (f"{NETS}:resnet(depth=8)", f"{NETS}:resnet(depth=14)")
    result = call(*specs, "--checkpoint", "none", "--json", "--quiet")
    assert result.exit_code == 0, result.output + result.stderr
    found = json.loads(result.stdout)
    assert [rung["name"] for rung in found["rungs"]] == ["resnet", "resnet #2"]
    assert found["source"] is None and found["rungs"][1]["agreement"] is None


def test_files_alone_are_measured(place: Path) -> None:
    write(place / "alone.onnx", Tiny())
    result = call("alone.onnx", "--json")
    assert result.exit_code == 0, result.output + result.stderr
    assert json.loads(result.stdout)["rungs"][0]["latency_ms"].keys() == {"1", "2"}


def test_each_candidate_has_its_own_mean_and_std(place: Path, tmp_path: Path) -> None:
    """The same weights twice, once for far brighter images: alone and beside one another."""
    usual = subject(small(), 32)
    pale = replace(usual, preprocess=replace(usual.preprocess, mean=(9.0,) * 3, std=(0.1,) * 3))
    for name, made in (("usual", usual), ("pale", pale)):
        export.write(
            replace(made, facts={"classes": json.dumps([*"abcdefghij"])}), ExportOptions(), tmp_path / f"{name}.onnx"
        )
    with torch.no_grad():
        answers = usual.module(usual.to_inputs(usual.images, ExportOptions())).argmax(1).tolist()
    drawn = zip(usual.images.permute(0, 2, 3, 1).numpy(), answers, strict=True)
    files = {
        f"test/{'abcdefghij'[answer]}/{i}.png": saved(Image.fromarray(image)) for i, (image, answer) in enumerate(drawn)
    }
    folder_of(tmp_path, files)

    def top1(*names: str) -> dict[str, float]:
        result = call(*(str(tmp_path / f"{name}.onnx") for name in names), "--images", str(tmp_path / "test"), "--json")
        assert result.exit_code == 0, result.output + result.stderr
        return {rung["name"]: rung["top1"] for rung in json.loads(result.stdout)["rungs"]}

    alone = top1("usual") | top1("pale")
    assert alone["usual.onnx"] == 1 > alone["pale.onnx"]
    assert top1("usual", "pale") == top1("pale", "usual") == alone


def test_options_of_a_run_are_not_applied_to_other_models(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree("run", tmp_path / "dark")
    run = json.loads((place / "run/run.json").read_text())
    run["sessions"][-1]["config"]["look"]["mean"] = [0.1, 0.1, 0.1]
    write_document(tmp_path / "dark", run)
    export.write(subject(small(), 32), ExportOptions(), tmp_path / "other.onnx")
    seen: list[Candidate] = []

    def watched(rungs: list[Candidate], *given: Any, **more: Any) -> tuple[BenchEntry, ...]:
        seen.extend(rungs)
        return benchmark(rungs, *given, **more)

    monkeypatch.setattr(benching, "benchmark", watched)
    benching.bench([str(tmp_path / "dark"), str(tmp_path / "other.onnx")], threads=1, batch=2, seconds=0)
    assert [rung.preprocess.mean[0] for rung in seen if rung.preprocess is not None] == [0.1, 0.485, 0.4]


def test_the_benchmark_of_an_export_does_not_replace_a_more_complete_one(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benching, "QUICK_SECONDS", 0.0)
    folder_of(place / "few", {f"{i}.png": saved(noise(32, 32, i)) for i in range(2)})
    folder_of(place / "unlabelled", {f"{i}.png": saved(noise(32, 32, i)) for i in range(9)})
    file, kept = write(place / "run/new.onnx", Tiny(classes=10), size=32), place / "run/bench.json"

    def after(images: str) -> list[str]:
        events: list[Event] = []
        benching.bench_export("run", str(file), images=place / images, threads=1, batch=2, listen=events.append)
        return [event.text for event in events if isinstance(event, Warned)]

    try:
        for careful, fewer in ((("run",), "few"), (("run", "--images", "photos"), "unlabelled")):
            assert call(*careful).exit_code == 0
            before = kept.read_bytes()
            assert "is kept; `graftcli bench` replaces it" in " ".join(after(fewer))
            assert kept.read_bytes() == before
        assert "is kept" not in " ".join(after("photos")) and kept.read_bytes() != before
    finally:
        file.unlink()


def test_without_images_only_time_is_measured(place: Path) -> None:
    (place / "photos").rename(place / "moved")
    result = call("run", "--json")
    (place / "moved").rename(place / "photos")
    assert result.exit_code == 0, result.output + result.stderr
    assert "images of the run are missing" in result.stderr
    assert json.loads(result.stdout)["rungs"][1]["agreement"] is None


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (("run", "alone16.onnx"), 2, "alone16.onnx takes 3x16x16"),
        (("nowhere.onnx",), 6, "nowhere.onnx"),
        (("hybrid", "--img-size", "48"), 2, "holds a hybrid with input size 32x32"),
        (("run", "--images", "nowhere"), 5, "nowhere"),
        (("resnet999",), 3, "resnet999"),
    ],
)
def test_bad_arguments_are_refused_with_one_message(
    place: Path, words: tuple[str, ...], code: int, expected: str
) -> None:
    write(place / "alone16.onnx", Tiny(classes=10))
    result = call(*words)
    assert result.exit_code == code, result.output + result.stderr
    assert expected in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("columns", ["80", "120", "300"])
def test_the_table_keeps_every_number_on_terminals_of_usual_widths(place: Path, columns: str) -> None:
    result = CliRunner().invoke(app, ["bench", "run", *QUICK], env={"COLUMNS": columns})
    assert result.exit_code == 0, result.output + result.stderr
    assert "…" not in result.stdout
    assert "100.00%" in result.stdout
