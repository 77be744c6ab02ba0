"""`graftcli report`, and the report at the end of a run: real runs, real folders."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import Result

from graftcli.report import facts, writing
from tests.commands import call
from tests.image_files import photos
from tests.nets import NETS, randomise, resnet
from tests.records import write_document
from tests.reports import folder_of_run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, one of them broken, and a teacher's weights."""
    folder = tmp_path_factory.mktemp("place")
    photos(folder, [f"photos/{i}.png" for i in range(8)])
    (folder / "photos" / "torn.png").write_bytes(b"\x89PNG")
    torch.manual_seed(0)
    torch.save(randomise(resnet(depth=8)).state_dict(), folder / "teacher.pth")
    return folder


@pytest.fixture(autouse=True)
def command_line(inside: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["graftcli", "distill", "as", "typed"])


def trained(out: str, *more: str) -> Result:
    networks = ("--teacher", f"{NETS}:resnet(depth=8)", "--teacher-checkpoint", "teacher.pth")
    student = ("--student", f"{NETS}:resnet(depth=8)", "--images", "photos", "--out", out)
    quick = ("--steps-scale", "0.005", "--batch", "4", "--set", "freeze=none", "--quiet")
    return call("distill", *networks, *student, *quick, *more)


@pytest.fixture(scope="module")
def finished(place: Path, request: pytest.FixtureRequest) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(sys, "argv", ["graftcli", "distill", "as", "typed"])
        result = trained("run")
    assert result.exit_code == 0, result.output + result.stderr
    return place / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may spoil."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def test_a_run_ends_with_its_report(finished: Path) -> None:
    text = (finished / "report.html").read_text()
    for part in ("The plan", "graftcli distill as typed", "disagree most", "skipped torn.png", "graft", "finish"):
        assert part in text, part
    page_facts = facts.read(finished)
    assert page_facts is not None and page_facts.compared is not None
    assert page_facts.compared.images == 8 and len(page_facts.compared.worst) == 8
    assert "torn.png" in json.loads((finished / "run.json").read_text())["sessions"][0]["warnings"][0]


def test_the_report_is_written_again_from_the_folder_alone(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (run / "report.html").read_text()
    (run / "report.html").unlink()
    monkeypatch.chdir(run)  # from where neither weights nor images are found
    result = call("report", ".", "--json", "--quiet")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == {"file": "report.html", "runs": ["."]}
    assert (run / "report.html").read_text() == before.replace('<td class="text">run</td>', '<td class="text">.</td>')


def test_without_report_json_the_networks_are_compared_again(run: Path) -> None:
    before = facts.read(run)
    (run / "report.json").unlink()
    result = call("report", str(run), "--quiet", "--trust-code")
    assert result.exit_code == 0, result.output + result.stderr
    assert facts.read(run) == before


def test_without_trust_a_report_that_needs_code_is_refused(finished: Path, run: Path) -> None:
    (run / "report.json").unlink()
    words = [sys.executable, "-m", "graftcli", "report", str(run), "--quiet"]
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    assert result.returncode == 6 and "would run code" in result.stderr and "--trust-code" in result.stderr
    assert facts.read(run) is None


@pytest.mark.parametrize(
    ("spoilt", "expected", "plan"),
    [
        ("photos", "the images in", True),
        ("weights", "the weights of the teacher have changed since the run", True),
        ("teacher", "lacks the plan and the images", False),
    ],
)
def test_what_is_not_the_runs_any_more_is_left_out_and_named(
    run: Path, place: Path, spoilt: str, expected: str, plan: bool
) -> None:
    (run / "report.json").unlink()
    file = place / "photos" / "0.png" if spoilt == "photos" else place / "teacher.pth"
    kept = file.read_bytes()
    try:
        if spoilt == "weights":
            torch.save(randomise(resnet(depth=8), seed=9).state_dict(), file)
        else:
            file.unlink()
        result = call("report", str(run), "--quiet", "--trust-code")
    finally:
        file.write_bytes(kept)
    assert result.exit_code == 0, result.output + result.stderr
    assert "warning" in result.stderr
    text = (run / "report.html").read_text()
    assert expected in text and ("The plan" in text) == plan and "disagree most" not in text
    assert not (run / "report.json").exists()


def test_an_interrupted_run_has_a_report_too(run: Path) -> None:
    document = json.loads((run / "run.json").read_text())
    write_document(
        run, {key: document[key] for key in document if key not in ("result", "files", "ended")} | {"status": "running"}
    )
    (run / "report.json").unlink()
    result = call("report", str(run), "--quiet", "--trust-code")
    assert result.exit_code == 0, result.output + result.stderr
    text = (run / "report.html").read_text()
    assert "not finished" in text and "The plan" in text


def test_several_runs_are_compared_here(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = folder_of_run(tmp_path / "other")
    monkeypatch.chdir(tmp_path)
    result = call("report", str(finished), str(other), str(finished), "--quiet")
    assert result.exit_code == 0, result.output + result.stderr
    assert "2 runs compared" in (tmp_path / "report.html").read_text()
    assert "warning" in result.stderr  # nothing is known of the other's networks


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["nowhere"], 2, "nowhere"),
        (["run", "--out", "."], 2, "is a folder"),
        (["run", "--out", "teacher.pth"], 2, "--overwrite"),
        (["run", "--out", "teacher.pth/page.html"], 7, "is a file"),
        ([], 2, "RUN"),
    ],
)
def test_bad_arguments_are_refused_with_one_message(finished: Path, words: list[str], code: int, expected: str) -> None:
    result = call("report", *words)
    assert result.exit_code == code, result.output + result.stderr
    assert expected in result.stderr and "Traceback" not in result.stderr


def test_another_file_is_replaced_only_with_overwrite(finished: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.html"
    file.write_text("mine")
    assert call("report", "run", "--out", str(file), "--quiet").exit_code == 2 and file.read_text() == "mine"
    assert call("report", "run", "--out", str(file), "--quiet", "--overwrite").exit_code == 0
    first = file.read_bytes()
    assert call("report", "run", "--out", str(file), "--quiet").exit_code == 0 and file.read_bytes() == first


def test_a_fault_of_the_report_is_a_warning_and_fails_no_run(
    finished: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> str:
        raise ZeroDivisionError("no page today")

    monkeypatch.setattr(writing, "page", broken)
    result = trained("faulty")
    assert result.exit_code == 0, result.output + result.stderr
    assert "no page today" in result.stderr and "graftcli report faulty" in result.stderr
    assert json.loads((place / "faulty" / "run.json").read_text())["status"] == "finished"
    weights = [(place / name / "model.safetensors").read_bytes() for name in ("run", "faulty")]
    assert weights[0] == weights[1] and not (place / "faulty" / "report.html").exists()


def test_a_run_that_starts_again_leaves_no_report_of_the_old_one(finished: Path, place: Path) -> None:
    folder = folder_of_run(place / "again", ladder=[])
    for name in ("report.html", "report.json"):
        (folder / name).write_text("old")
    assert trained("again", "--overwrite").exit_code == 0
    assert "old" not in ((folder / name).read_text() for name in ("report.html", "report.json"))
    assert not (folder / "bench.json").exists()
