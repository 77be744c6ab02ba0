"""The content of run.json, and the differences between two documents."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from graftcli.errors import CheckpointError
from graftcli.store import Store
from graftcli.store.resume import differences, different_settings, newest, settings_document
from graftcli.store.run_file import read_record, write_record
from graftcli.store.run_record import NetworkIdentity, RunRecord, Session
from tests.records import FIXED, result, settings


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
def test_every_difference_has_its_name(old: object, new: object, names: list[str]) -> None:
    assert [name for name, _, _ in differences(old, new)] == names
    assert [name for name, _, _ in differences(new, old)] == names


def test_a_refusal_lists_no_more_settings_than_can_be_read(tmp_path: Path) -> None:
    before, now = (
        NetworkIdentity(name="n", origin={f"s{number:02}": text * 200 for number in range(30)}, weights="0")
        for text in ("x", "y")
    )
    with Store(tmp_path, settings(teacher=before)), pytest.raises(CheckpointError):
        read_record(tmp_path)  # no such architecture, but the file is whole
    changes = list(differences(settings_document(settings(teacher=before)), settings_document(settings(teacher=now))))
    lines = different_settings(tmp_path, changes).message.splitlines()
    assert len(lines) == 22 and lines[-1] == "  and 10 more" and max(map(len, lines[1:])) < 160


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    odd = "caf\udce9.png"  # a file name that is not UTF-8
    session = Session(config={"images": odd}, command=odd, warnings=(odd,))
    record = RunRecord(
        status="finished",
        settings=settings(frozen=(1,)),
        sessions=(session,),
        fixed=FIXED,
        singles={odd: None},
        ended="later",
        result=result(),
        files={"model.safetensors": "00"},
    )
    write_record(tmp_path, record)
    assert read_record(tmp_path) == record


def test_a_finished_run_has_a_result() -> None:
    with pytest.raises(ValidationError, match="a run has a `result` when it is finished, and only then"):
        RunRecord(status="finished", settings=settings(), sessions=(Session(),))


def test_the_newest_run_is_the_one_that_was_worked_on_last(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    assert newest(runs) is None
    for seed, name in enumerate("abc"):
        with Store(runs / name, settings(seed=seed)) as store:
            store.finish(result())
    assert newest(runs) == runs / "c"
    with Store(runs / "d", settings(seed=3)), Store(runs / "e", settings(seed=4)):
        pass
    with Store(runs / "d", settings(seed=3)):
        pass
    (runs / "f").mkdir()
    (runs / "f" / "run.json").write_text("{}")
    assert newest(runs) == runs / "d"
    assert newest(runs, lambda run: run.settings.seed < 2) == runs / "b"
    assert newest(runs, lambda run: run.settings.seed > 9) is None
