"""Which changes of the files behind a name change its fingerprint."""

from pathlib import Path

import pytest

from graftcli.comparison.fingerprint import file_stats
from graftcli.models.loading.model_spec import absolute_spec


@pytest.fixture(autouse=True)
def afresh() -> None:
    file_stats.cache_clear()


def changed(text: str, file: Path) -> bool:
    before = file_stats(text)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"another size")
    file_stats.cache_clear()
    return bool(file_stats(text) != before)


@pytest.mark.parametrize(
    ("text", "file"),
    [
        ("{here}/net.py:small(depth=8)", "net.py"),
        ("{here}/weights.pth", "weights.pth"),
        ("{here}/photos", "photos/cat/1.png"),
        ("local-dir:{here}/model", "model/pytorch_model.bin"),
        ("{here}/run", "run/model.safetensors"),
    ],
)
def test_changed_files_change_the_fingerprint(tmp_path: Path, text: str, file: str) -> None:
    for name in ("net.py", "weights.pth", "photos/cat/1.png", "model/pytorch_model.bin", "run/graft.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert changed(text.format(here=tmp_path), tmp_path / file)


def test_a_change_of_a_links_target_changes_the_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "all/cat").mkdir(parents=True)
    (tmp_path / "few").mkdir()
    (tmp_path / "few/cat").symlink_to(tmp_path / "all/cat", target_is_directory=True)
    assert changed(str(tmp_path / "few"), tmp_path / "all/cat/1.png")


@pytest.mark.parametrize(
    ("text", "file"),
    [
        ("{here}/photos", "photos/.DS_Store"),
        ("{here}/photos", "photos/@eaDir/1.png"),
        ("{here}/run", "run/report.html"),
        ("{here}/run", "run/.lock"),
        ("torchvision:resnet18", "other"),
        ("prune:l1=0.5", "other"),
    ],
)
def test_channels_that_are_not_read_have_no_importance(tmp_path: Path, text: str, file: str) -> None:
    for name in ("photos/1.png", "run/graft.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert not changed(text.format(here=tmp_path), tmp_path / file)


def test_a_spec_may_be_longer_than_the_name_of_a_file() -> None:
    spec = f"drop:{','.join(f'stages.{i}.blocks.{j}' for i in range(4) for j in range(6))}"
    assert file_stats(spec) is None and absolute_spec(spec) == spec
