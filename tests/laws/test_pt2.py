"""pt2 files: PyTorch alone runs them, without graftcli, and hold nothing of this machine."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from graftcli.errors import GateError
from graftcli.formats.options import ExportOptions
from graftcli.formats.write import write
from graftcli.images.pixels import normalise
from tests.exports import PLACES, SUBJECTS, small, subject

_RUN = """
import sys
sys.modules["graftcli"] = sys.modules["timm"] = None
import torch
for folder in sys.argv[1:]:
    model = torch.export.load(f"{folder}/a.pt2").module()
    with torch.no_grad():
        torch.save([model(images) for images in torch.load(f"{folder}/given")], f"{folder}/answered")
"""


def test_torch_alone_gives_the_networks_answers_at_every_batch(tmp_path: Path) -> None:
    """In a process without graftcli and timm; one for both files, because importing torch takes longest."""
    expected: dict[Path, list[torch.Tensor]] = {}
    for name in ("cifar resnet", "hybrid"):
        made, folder = SUBJECTS[name](), tmp_path / name
        folder.mkdir()
        found = write(made, ExportOptions(format="pt2"), folder / "a.pt2")
        assert found.agreement == 1.0 and found.error <= 1e-5 and found.opset is None
        batches = [normalise(made.images[:count], made.preprocess) for count in (1, 2, 7)]
        torch.save(batches, folder / "given")
        with torch.no_grad():
            expected[folder] = [made.module(images) for images in batches]
    subprocess.run([sys.executable, "-W", "ignore", "-c", _RUN, *expected], check=True, cwd=tmp_path)
    for folder, logits in expected.items():
        for given, right in zip(torch.load(folder / "answered"), logits, strict=True):
            torch.testing.assert_close(given, right)


def test_the_file_holds_no_trace_of_this_machine_and_tells_what_it_is(tmp_path: Path) -> None:
    write(subject(small(), 32), ExportOptions(format="pt2"), tmp_path / "a.pt2")
    with zipfile.ZipFile(tmp_path / "a.pt2") as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    assert not any(place.encode() in data for place in PLACES for data in content.values())
    extra: dict[str, Any] = {"mean": ""}
    torch.export.load(tmp_path / "a.pt2", extra_files=extra)
    assert json.loads(extra["mean"]) == [0.4, 0.5, 0.6]


@pytest.mark.parametrize("order", ["nhwc", "nchw"])
def test_preprocessing_is_baked_into_a_program_too(order: Any, tmp_path: Path) -> None:
    made = subject(small(), 32)
    write(made, ExportOptions(format="pt2", pixels=order, dynamic_size=order == "nchw"), tmp_path / "a.pt2")
    shown = made.images.permute(0, 2, 3, 1).contiguous() if order == "nhwc" else made.images
    with torch.no_grad():
        wanted = made.module(normalise(made.images, made.preprocess))
        given = torch.export.load(tmp_path / "a.pt2").module()(shown)
    torch.testing.assert_close(given, wanted)


class _Asking(torch.nn.Linear):
    """Looks at its numbers to choose what to do, which no program can."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = super().forward(images.mean((2, 3)))
        return logits if bool(logits.sum() > 0) else -logits


def test_what_cannot_be_exported_is_refused_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(GateError, match="`_Asking` cannot be exported to pt2: ") as caught:
        write(subject(_Asking(3, 5), 32), ExportOptions(format="pt2"), tmp_path / "a.pt2")
    assert "--static" in caught.value.fix
    assert list(tmp_path.iterdir()) == []
