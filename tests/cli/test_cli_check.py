"""`graftcli check` and the repair of finished runs: real runs, damaged file by file."""

import shutil
import sys
from pathlib import Path

import pytest
from typer.testing import Result

from tests.commands import call
from tests.image_files import photos

_SHORT = (
    "--img-size",
    "32",
    "--num-classes",
    "5",
    "--steps-scale",
    "0.002",
    "--set",
    "views.count=4",
    "--set",
    "freeze=none",
    "--quiet",
)
_NETWORKS = (
    "--teacher",
    "test_resnet",
    "--teacher-checkpoint",
    "none",
    "--student",
    "test_resnet",
    "--images",
    "photos",
)


def trained() -> Result:
    return call("distill", *_NETWORKS, *_SHORT, "--set", "views.synthetic=null", "--out", "run")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("finished")
    photos(place, [f"photos/{i}.png" for i in range(6)])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(sys, "argv", ["graftcli", "distill", "as", "typed"])
        result = trained()
    assert result.exit_code == 0, result.output + result.stderr
    return place


@pytest.fixture
def place(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(finished, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


def damage(file: Path) -> bytes:
    """Flip a bit; returns the bytes from before."""
    before = file.read_bytes()
    file.write_bytes(before[:-40] + bytes([before[-40] ^ 8]) + before[-39:])
    return before


def test_a_whole_run_passes(place: Path) -> None:
    result = call("check", "run")
    assert result.exit_code == 0, result.output + result.stderr
    for name in ("run.json", "model.safetensors", "config.json", "blocks/finish-1-2-3.safetensors"):
        assert any(line.startswith(name) and "intact" in line for line in result.stdout.splitlines()), name


@pytest.mark.parametrize("name", ["model.safetensors", "graft.json", "config.json", "blocks/graft-2.safetensors"])
@pytest.mark.parametrize("gone", [False, True])
def test_what_is_damaged_or_missing_is_named(place: Path, name: str, gone: bool) -> None:
    file = place / "run" / name
    if gone:
        file.unlink()
    else:
        damage(file)
    result = call("check", "run")
    assert result.exit_code == 6 and "graftcli distill as typed" in result.stderr
    state = "missing" if gone else "damaged"
    assert [line.split()[0] for line in result.stdout.splitlines() if state in line] == [name]


@pytest.mark.parametrize("command", ["eval", "export", "report", "distill"])
def test_a_damaged_network_is_merged_again_from_its_blocks(place: Path, command: str) -> None:
    before = damage(place / "run" / "model.safetensors")
    (place / "run" / "report.json").unlink()
    words = {
        "eval": ("eval", "run", "--images", "photos", "--teacher", "test_resnet", "--teacher-checkpoint", "none"),
        "export": ("export", "run", "--format", "safetensors", "--out", "one.safetensors"),
        "report": ("report", "run"),
    }
    size = ("--num-classes", "5") if command == "eval" else ()
    result = trained() if command == "distill" else call(*words[command], *size)
    assert result.exit_code == 0, result.output + result.stderr
    assert "model.safetensors in run missing or damaged: merging again from blocks/" in result.stderr
    assert "steps" not in result.stderr, "nothing is trained"
    assert (place / "run" / "model.safetensors").read_bytes() == before


def test_where_a_block_is_lost_too_one_message_says_what_to_do_and_the_run_makes_it_again(place: Path) -> None:
    before = damage(place / "run" / "model.safetensors")
    damage(place / "run" / "blocks" / "graft-2.safetensors")
    result = call("export", "run")
    assert result.exit_code == 6
    assert "is damaged, and `blocks/graft-2.safetensors` is too" in result.stderr
    assert "graftcli distill as typed" in result.stderr
    assert trained().exit_code == 0 and (place / "run" / "model.safetensors").read_bytes() == before


def test_a_config_that_differs_from_its_weights_is_refused(place: Path) -> None:
    file = place / "run" / "config.json"
    file.write_text(file.read_text().replace("32", "33", 1))
    result = call(
        "eval", "local-dir:run", "--images", "photos", "--teacher", "test_resnet", "--teacher-checkpoint", "none"
    )
    assert result.exit_code == 6 and "differs from the metadata of `model.safetensors`: input_size" in result.stderr


def test_a_single_file_that_is_damaged_is_written_again(place: Path) -> None:
    def run() -> Result:
        return call("distill", *_NETWORKS, *_SHORT, "--set", "views.synthetic=null", "--out", "one.safetensors")

    assert run().exit_code == 0
    before = damage(place / "one.safetensors")
    assert run().exit_code == 0 and (place / "one.safetensors").read_bytes() == before


def test_a_run_that_was_killed_before_its_report_says_how_to_write_it(place: Path) -> None:
    (place / "run" / "report.html").unlink()
    result = trained()
    assert result.exit_code == 0 and "run has no report: `graftcli report run` writes it" in result.stderr
