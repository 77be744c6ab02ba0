"""`graftcli images select`, and `distill --max-images`."""

import json
from pathlib import Path

import pytest

from graftcli.images.sources import open_source
from tests.commands import call
from tests.nets import NETS
from tests.prepared_runs import OWN, run_inputs


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return run_inputs(tmp_path, 50)


def teacher(place: Path) -> list[str]:
    return ["--teacher", f"{NETS}:resnet(depth=14)", "--teacher-checkpoint", str(place / "teacher.pth")]


def test_a_selection_is_printed_written_and_used(place: Path) -> None:
    chosen = place / "chosen.list"
    words = ["images", "select", str(place / "photos"), *teacher(place), "--max", "12", "--device", "cpu"]
    result = call(*words, "--by", "diverse", "--out", str(chosen))
    assert result.exit_code == 0, result.output
    assert f"12 of 50 images in {place / 'photos'}, diverse" in result.stdout and f"written: {chosen}" in result.stdout
    assert "selected" in result.stdout and "confidence" in result.stdout
    with open_source(chosen) as opened:
        assert len(opened.entries) == 12
    assert call("images", str(chosen), "--json").exit_code == 0
    assert "exists" in call(*words, "--out", str(chosen)).stderr
    printed = call(*words, "--json")
    document = json.loads(printed.stdout)
    assert len(document["names"]) == 12 and document["before"]["images"] == 50 and document["after"]["images"] == 12
    assert call(*words, "--by", "best").exit_code == 2
    assert call("images", "select", str(place / "photos"), "--max", "5").exit_code == 2  # no teacher
    assert call("images", "select", str(place / "photos"), "--max", "5", "--by", "random").exit_code == 0


def test_the_help_of_both_commands_is_their_own() -> None:
    assert "--max" in call("images", "select", "--help").stdout
    assert "--max" not in call("images", "--help").stdout and "images select" in call("--help").stdout


def test_distill_selects_before_it_trains(place: Path) -> None:
    words = ["--student", OWN, "--images", str(place / "photos"), "--out", str(place / "run"), "--device", "cpu"]
    short = ["--steps-scale", "0.002", "--batch", "4", "--json", "--quiet"]
    result = call("distill", *teacher(place), *words, *short, "--max-images", "14", "--select", "random")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["images"] == 14
