"""What run.json says, and how two documents differ."""

import math
from pathlib import Path
from typing import Any

import pytest

from graftcli.errors import UsageError
from graftcli.store import Store
from graftcli.store.run_file import differences, newest, read_run, resumable_run


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ({"a": 1}, {"a": 1.0}, []),
        ({"a": {"b": [1, {"c": 2}]}}, {"a": {"b": [1, {"c": 3}]}}, ["a.b.1.c"]),
        ({"a": [1, 2]}, {"a": [1, 2, 3]}, ["a"]),
        ({"a": None}, {}, ["a"]),
        ({"a": {"b": 1}}, {"a": 1}, ["a"]),
        ({"b": 1, "a": 1}, {"b": 2, "a": 2}, ["a", "b"]),
    ],
)
def test_every_difference_has_its_name(old: Any, new: Any, names: list[str]) -> None:
    assert [name for name, _, _ in differences(old, new)] == names
    assert [name for name, _, _ in differences(new, old)] == names


def test_a_refusal_shows_no_more_than_can_be_read(tmp_path: Path) -> None:
    settings = {f"s{number:02}": "x" * 200 for number in range(30)}
    with Store(tmp_path, settings):
        pass
    with pytest.raises(UsageError) as caught:
        resumable_run(tmp_path, dict.fromkeys(settings, 1), overwrite=False)
    lines = caught.value.message.splitlines()
    assert len(lines) == 22 and lines[-1] == "  and 10 more" and max(map(len, lines[1:])) < 90


def test_a_setting_that_json_does_not_know_is_no_difference(tmp_path: Path) -> None:
    for _ in range(2):
        with Store(tmp_path, {"decay": math.nan}):
            assert read_run(tmp_path)["settings"] == {"decay": None}


def test_the_newest_run_is_the_one_that_was_worked_on_last(tmp_path: Path) -> None:
    assert newest(tmp_path / "runs") is None
    for name in ("a", "b", "c"):
        with Store(tmp_path / "runs" / name, {"name": name}) as store:
            store.finish({})
    assert newest(tmp_path / "runs") == tmp_path / "runs" / "c"
    with Store(tmp_path / "runs" / "d", {"name": "d"}), Store(tmp_path / "runs" / "e", {"name": "e"}):
        pass
    with Store(tmp_path / "runs" / "d", {"name": "d"}):
        pass
    (tmp_path / "runs" / "f").mkdir()
    (tmp_path / "runs" / "f" / "run.json").write_text("{}")
    assert newest(tmp_path / "runs") == tmp_path / "runs" / "d"
    assert newest(tmp_path / "runs", lambda run: run["settings"]["name"] < "c") == tmp_path / "runs" / "b"
    assert newest(tmp_path / "runs", lambda run: run["status"] == "paused") is None
