"""The bench of pairs prints one row per cell, and a second time reads what it has."""

import sys
from pathlib import Path

import pytest
import torch

from tests.bench import pairs
from tests.image_files import photos
from tests.nets import NETS, randomise, resnet

RESNET = f"{NETS}:resnet(depth={{}})"


@pytest.mark.parametrize("words", [("--scale", "0.01"), ("--seconds", "1")], ids=["scale", "seconds"])
def test_a_table_of_one_cell(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = photos(tmp_path / "images", [f"{i}.png" for i in range(12)])
    torch.save(randomise(resnet(14)).state_dict(), tmp_path / "teacher.pth")
    small = pairs.Pair(RESNET.format(14), tmp_path / "teacher.pth", RESNET.format(8), images, images)
    monkeypatch.setattr(pairs, "PAIRS", {"small": small})
    given = (*words, "--only", "small", "--recipes", "graft", "--set", "views.total=64")
    monkeypatch.setattr(sys, "argv", ["pairs.py", *given, "--out", str(tmp_path / "runs")])
    rows = []
    for _ in range(2):
        pairs.main()
        rows.append(capsys.readouterr().out.splitlines()[-3:])
    head, rule, row = rows[0]
    assert head.startswith("| pair | recipe | agreement") and len(rule.split("|")) == len(row.split("|"))
    assert row.startswith("| small | graft | ") and 0 <= float(row.split("|")[3]) <= 100
    assert len(row.split("|")[6].split()) == 3, "each block alone has a score"
    assert rows[1][-1] == row
