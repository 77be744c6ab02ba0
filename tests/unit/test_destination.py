"""Where a run is written."""

from pathlib import Path

import pytest

from graftcli.errors import UsageError
from graftcli.runs.config import ModelPair, RunConfig
from graftcli.runs.destination import single_file
from graftcli.runs.running import distill


@pytest.mark.parametrize("name", ["student.pth", "student.PT", "student.bin", "a/student.ckpt", "student.tflite"])
def test_a_file_that_no_run_writes_is_refused_before_anything_is_loaded(name: str) -> None:
    suffix = Path(name).suffix.lower()
    with pytest.raises(UsageError, match=f"a run cannot write a {suffix} file") as caught:
        distill(RunConfig(ModelPair("missing.py:net", "missing.py:net"), "missing"), out=name)
    assert "Give a folder, or a" in caught.value.fix and "graftcli export RUN" in caught.value.fix


def test_a_format_that_export_alone_writes_is_answered_with_its_command() -> None:
    with pytest.raises(UsageError) as caught:
        single_file("student.pt2")
    assert "`graftcli export RUN --format pt2 --out student.pt2`" in caught.value.fix


@pytest.mark.parametrize("name", ["student.onnx", "student.safetensors", "student.ONNX"])
def test_a_file_that_a_run_writes_is_a_single_file(name: str) -> None:
    assert single_file(name) == Path(name)


@pytest.mark.parametrize("name", [None, "runs/v1.5", "runs/resnet34.a1_in1k-resnet18", "runs/small"])
def test_anything_else_is_a_folder(name: str | None) -> None:
    assert single_file(name) is None


def test_a_folder_that_exists_is_a_folder_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "student.pt").mkdir()
    assert single_file(tmp_path / "student.pt") is None
