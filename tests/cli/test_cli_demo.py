"""The demo with few steps: its output and its files."""

import json
from pathlib import Path

import onnxruntime
import pytest
import torch
from typer.testing import CliRunner

from graftcli.cli import app
from graftcli.demo import show


def test_the_demo_scores_three_networks_and_leaves_files_that_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        show, "GRAFT_OVERRIDES", ("views.count=10", "stages.graft.steps=100", "stages.finish.steps=250")
    )
    length = ("views.count=10", "stages.finish.steps=350", "stages.finish.epochs=null")
    monkeypatch.setattr(show, "KD_OVERRIDES", length)
    threads = torch.get_num_threads()
    result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "demo"), "--json"])
    torch.set_num_threads(threads)
    assert result.exit_code == 0, result.stderr
    shown = json.loads(result.stdout)
    teacher, grafted, plain = shown["lines"]
    assert teacher["accuracy"]["top1"]["share"] > 0.95
    assert grafted["parameters"] == plain["parameters"] < teacher["parameters"] / 3
    assert grafted["accuracy"]["top1"]["share"] > plain["accuracy"]["top1"]["share"]
    assert len(list((tmp_path / "demo" / "images").glob("*.png"))) == 100
    session = onnxruntime.InferenceSession(tmp_path / "demo" / "student.onnx", providers=["CPUExecutionProvider"])
    assert session.run(["logits"], {"images": torch.zeros(2, 1, 32, 32).numpy()})[0].shape == (2, 10)
    assert [Path(file).exists() for file in shown["files"]] == [True] * 4
