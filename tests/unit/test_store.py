"""A run's folder: whole at every moment, one process at a time, resumed by the same settings alone."""

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from graftcli.errors import CheckpointError, MachineError, UsageError
from graftcli.store import FILE_PATTERNS, Store
from graftcli.store.run_file import read_record
from graftcli.store.run_record import RunSettings, Session
from tests.records import FIXED, RECIPE, SETTINGS, files, records, result, settings


def run_file(folder: Path) -> dict[str, Any]:
    run: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return run


# -- a run from its start to its end ------------------------------------------------------------------------------


def test_run_json_holds_settings_and_progress(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "a"
    with Store(folder, SETTINGS, Session(versions={"torch": "2.9"}, command="distill")) as store:
        assert not store.resumed and store.finished is None
        run = run_file(folder)
        assert run["status"] == "running" and RunSettings.model_validate(run["settings"]) == SETTINGS
        (session,) = run["sessions"]
        assert session["versions"] == {"torch": "2.9"} and session["command"] == "distill"
        store.finish(result(agreement=0.9, kl=float("nan")))
    run = run_file(folder)
    assert (run["status"], run["result"]["agreement"], run["result"]["kl"]) == ("finished", 0.9, None)
    assert session["started"] < run["ended"]


def test_the_same_command_after_the_end_finds_the_result_and_writes_nothing(tmp_path: Path) -> None:
    with Store(tmp_path, SETTINGS) as store:
        store.unit("graft-1").finish({"w": torch.ones(2)}, {})
        store.metric({"loss": 1.0})
        store.finish(result(agreement=0.9))
    before = files(tmp_path)
    with Store(tmp_path, SETTINGS, Session(versions={"torch": "3"})) as store:
        assert store.resumed and store.finished == result(agreement=0.9)
        assert files(tmp_path) == before


def test_a_unit_is_kept_then_finished(tmp_path: Path) -> None:
    with Store(tmp_path, SETTINGS) as store:
        unit = store.unit("graft-1")
        assert (unit.state, unit.finished) == (None, None)
        for step in (5, 10):
            unit.keep(step, {"weights": {"w": torch.full((2,), step)}, "course": {"step": step}})
    with Store(tmp_path, SETTINGS) as store:
        unit = store.unit("graft-1")
        assert store.resumed and unit.state is not None and unit.step == 10
        assert unit.state["course"] == {"step": 10} and unit.state["weights"]["w"].tolist() == [10, 10]
        unit.finish({"w": torch.ones(2)}, {"loss": 0.5})
        finished = store.unit("graft-1").finished
        assert finished is not None and finished[1] == {"loss": 0.5} and finished[0]["w"].tolist() == [1, 1]
        assert unit.state is None and store.unit("graft-2").finished is None
    assert "state/graft-1.safetensors" not in files(tmp_path)


def test_states_and_caches_go_when_the_run_is_finished(tmp_path: Path) -> None:
    with Store(tmp_path, SETTINGS) as store:
        store.unit("graft-1").keep(1, {})
        (tmp_path / "cache").mkdir()
        (tmp_path / "cache" / "value-1.bin").write_bytes(b"x")
        (tmp_path / "cache" / "mine.txt").write_bytes(b"x")
        store.finish(result())
    assert set(files(tmp_path)) == {"run.json", "cache/mine.txt"}
    assert not (tmp_path / "state").exists()


def test_what_is_fixed_is_computed_once(tmp_path: Path) -> None:
    with Store(tmp_path, SETTINGS) as store:
        assert store.fixed(lambda: FIXED) == FIXED
    with Store(tmp_path, SETTINGS) as store:
        assert store.fixed(lambda: FIXED.model_copy(update={"memory": 8})) == FIXED


# -- settings -----------------------------------------------------------------------------------------------------


def test_other_settings_are_refused_and_named(tmp_path: Path) -> None:
    with Store(tmp_path / "a", SETTINGS):
        pass
    before = files(tmp_path / "a")
    graft, finish = RECIPE.stages
    faster = RECIPE.model_copy(update={"stages": (graft, finish.model_copy(update={"lr": (0.5,)}))})
    other = settings(recipe=faster, seed=1, amp=True)
    with pytest.raises(UsageError) as caught:
        Store(tmp_path / "a", other)
    assert caught.value.message.splitlines()[1:] == [
        "  amp: false in the run, true now",
        "  recipe.stages.1.lr: 0.01 in the run, 0.5 now",
        "  seed: 0 in the run, 1 now",
    ]
    assert "--out" in caught.value.fix and "--overwrite" in caught.value.fix
    assert files(tmp_path / "a") == before


def test_changed_code_is_named_with_short_digests(tmp_path: Path) -> None:
    with Store(tmp_path / "a", _with_code("a")):
        pass
    with pytest.raises(UsageError) as caught:
        Store(tmp_path / "a", _with_code("b"))
    assert caught.value.message.splitlines()[1:] == [
        f"  code of the student: sha256 {'a' * 12}… in the run, sha256 {'b' * 12}… now"
    ]


def _with_code(digit: str) -> RunSettings:
    student = SETTINGS.student.model_copy(update={"origin": {**SETTINGS.student.origin, "sha256": digit * 64}})
    return SETTINGS.model_copy(update={"student": student})


def test_another_command_with_the_same_settings_resumes_the_run(tmp_path: Path) -> None:
    with Store(tmp_path, SETTINGS):
        pass
    with Store(tmp_path, SETTINGS, Session(command="other")) as store:
        assert store.resumed
    assert len(run_file(tmp_path)["sessions"]) == 2


def test_overwrite_starts_from_scratch(tmp_path: Path) -> None:
    with Store(tmp_path, SETTINGS) as store:
        store.unit("graft-1").finish({"w": torch.ones(2)}, {})
        store.unit("graft-2").keep(1, {})
        store.metric({"unit": "graft-1", "step": 1})
        store.fixed(lambda: FIXED)
    with Store(tmp_path, settings(seed=1), overwrite=True) as store:
        assert not store.resumed and store.unit("graft-1").finished is None and store.unit("graft-2").state is None
        assert set(files(tmp_path)) == {"run.json"}
        assert store.fixed(lambda: FIXED.model_copy(update={"memory": 2})).memory == 2
        store.finish(result())
    with Store(tmp_path, settings(seed=1), overwrite=True) as store:
        assert not store.resumed and store.finished is None


def test_an_interrupted_command_with_overwrite_resumes(tmp_path: Path) -> None:
    with Store(tmp_path, settings(seed=1)) as store:
        store.finish(result())
    with Store(tmp_path, SETTINGS, overwrite=True) as store:
        store.unit("graft-1").keep(3, {})
    with Store(tmp_path, SETTINGS, overwrite=True) as store:
        assert store.resumed and store.unit("graft-1").step == 3


# -- places that are none -----------------------------------------------------------------------------------------


def test_a_folder_that_holds_something_else_is_not_touched(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "c.txt", "README.md"):
        (tmp_path / name).write_text("mine")
    before = files(tmp_path)
    with pytest.raises(
        UsageError, match=r"is not a run: it holds `README.md`, `a.txt`, `b.txt` and 1 more, but no run.json"
    ) as caught:
        Store(tmp_path, SETTINGS)
    assert files(tmp_path) == before
    assert all(name in caught.value.fix for name in ("--out", "--overwrite", "README.md", "model.safetensors"))


def test_in_a_folder_of_others_only_what_graftcli_writes_is_overwritten(tmp_path: Path) -> None:
    own = (
        *("README.md", "model.safetensors", "config.json", "graft.json"),
        *("bench.json", "metrics.jsonl", "blocks/a.safetensors"),
    )
    others = ("a.txt", "blocks/notes.txt", "cache/photo.jpg", "sub/README.md", ".hidden")
    for name in own + others:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    with Store(tmp_path, SETTINGS, overwrite=True):
        pass
    left = files(tmp_path)
    assert left.keys() == {*others, "run.json"} and all(left[name] == b"mine" for name in others)
    assert all(any(Path(name).match(pattern) for pattern in FILE_PATTERNS) for name in own)


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("mine")
    with pytest.raises(UsageError, match=r"`.*model` is a file; a run needs a folder"):
        Store(tmp_path / "model", SETTINGS, overwrite=True)
    with pytest.raises(MachineError, match=r"`.*model` is a file, not a folder"):
        Store(tmp_path / "model" / "deeper", SETTINGS)
    assert (tmp_path / "model").read_text() == "mine"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', '{"format": 2, "sessions": []}', "\x00"])
def test_a_run_json_of_others_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"run.json` (is damaged or was changed: |has format (1|None))"):
        Store(tmp_path, SETTINGS)
    assert (tmp_path / "run.json").read_text() == text
    with Store(tmp_path, SETTINGS, overwrite=True) as store:
        assert not store.resumed


def test_a_record_that_was_edited_is_refused(tmp_path: Path) -> None:
    with Store(tmp_path, SETTINGS):
        pass
    text = (tmp_path / "run.json").read_text()
    (tmp_path / "run.json").write_text(text.replace('"seed": 0', '"seed": 1'))
    with pytest.raises(
        CheckpointError, match=r"run.json` is damaged or was changed: its digest does not match its content"
    ):
        read_record(tmp_path)


@pytest.mark.parametrize("name", ["blocks/graft-1", "state/graft-2"])
def test_damage_is_dropped_with_a_warning_when_a_run_is_resumed(tmp_path: Path, name: str) -> None:
    with Store(tmp_path, SETTINGS) as store:
        store.unit("graft-1").finish({"w": torch.ones(200)}, {})
        store.unit("graft-2").keep(3, {"w": torch.ones(200)})
    file = tmp_path / f"{name}.safetensors"
    data = bytearray(file.read_bytes())
    data[-9] ^= 4
    file.write_bytes(data)
    warnings: list[str] = []
    with Store(tmp_path, SETTINGS, warn=warnings.append) as store:
        assert (store.unit("graft-1").finished is None) == (name == "blocks/graft-1")
        assert (store.unit("graft-2").state is None) == (name == "state/graft-2")
        assert (store.unit("graft-2").step == -1) == (name == "state/graft-2")
    assert len(warnings) == 1 and f"{name}.safetensors` is damaged" in warnings[0] and not file.exists()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_folder_that_is_removed_under_a_run_is_not_made_again(tmp_path: Path, replaced: bool) -> None:
    folder = tmp_path / "run"
    gone = r"run` was removed or replaced during the run"
    with pytest.raises(MachineError, match=gone) as caught, Store(folder, SETTINGS) as store:
        unit = store.unit("graft-1")
        unit.keep(1, {"w": torch.ones(2)})
        shutil.rmtree(folder)
        if replaced:
            with Store(folder, SETTINGS):
                pass
        before = files(tmp_path)
        with pytest.raises(MachineError, match=gone):
            unit.keep(2, {"w": torch.ones(2)})
        with pytest.raises(MachineError, match=gone):
            unit.finish({"w": torch.ones(2)}, {})
        store.finish(result())
    assert caught.value.exit_code == 7 and files(tmp_path) == before


def test_what_a_killed_report_left_in_a_finished_run_is_removed(tmp_path: Path) -> None:
    with Store(tmp_path, SETTINGS) as store:
        store.finish(result())
    live = tmp_path / f".report.html.{os.getpid()}.tmp"
    for file in (tmp_path / ".report.json.4194303.tmp", live):
        file.write_text("half")
    with Store(tmp_path, SETTINGS):
        assert not (tmp_path / ".report.json.4194303.tmp").exists()
        assert live.exists(), "a process that is alive may be writing it"


def test_a_damaged_block_is_named(tmp_path: Path) -> None:
    with Store(tmp_path, SETTINGS) as store:
        store.unit("graft-1").finish({"w": torch.ones(2)}, {})
        (tmp_path / "blocks" / "graft-1.safetensors").write_bytes(b"spoilt")
        with pytest.raises(CheckpointError, match=r"graft-1.safetensors` is damaged or was not written by graftcli"):
            _ = store.unit("graft-1").finished


# -- metrics ------------------------------------------------------------------------------------------------------


def test_a_resumed_run_drops_the_records_that_it_writes_again(tmp_path: Path) -> None:
    done, going, lost = ({"unit": f"graft-{k}", "step": 1} for k in (1, 2, 3))
    with Store(tmp_path, SETTINGS) as store:
        store.metric({"planned": True})
        store.metric({**done, "loss": float("inf")})
        store.unit("graft-1").finish({}, {})
        for step in (1, 2, 3, 4):
            store.metric({**going, "step": step})
        store.unit("graft-2").keep(2, {})
        store.metric(lost)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"unit": "graft-1", "st')
    with Store(tmp_path, SETTINGS):
        assert records(tmp_path) == [{**done, "loss": None}, going, {**going, "step": 2}]


def test_a_warning_stays_with_the_session_that_gave_it(tmp_path: Path) -> None:
    with Store(tmp_path, SETTINGS, Session(warnings=("early",))) as store:
        store.add_warning("late")
    with Store(tmp_path, SETTINGS) as store:
        store.add_warning("again")
        store.finish(result())
        store.add_warning("after the end")
    record = read_record(tmp_path)
    assert [session.warnings for session in record.sessions] == [("early", "late"), ("again", "after the end")]
    assert record.status == "finished"


def test_a_run_has_spent_what_all_of_its_sessions_have(tmp_path: Path) -> None:
    class Clock:
        now = 100.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("graftcli.store.time", clock)
        with contextlib.suppress(KeyboardInterrupt), Store(tmp_path, SETTINGS):
            clock.now = 110.0
            raise KeyboardInterrupt
        killed = Store(tmp_path, SETTINGS)
        clock.now = 115.0
        killed.unit("graft-1").finish({"weight": torch.zeros(1)}, {})
        clock.now = 118.0
        killed._lock.close()  # nothing else is written: these three seconds nobody knows of
        with Store(tmp_path, SETTINGS) as store:
            clock.now = 120.0
            assert store.spent.seconds == 10 + 5 + 2
            assert store.spent.peak_memory > 10**6
            store.finish(result())
    assert [session["seconds"] for session in run_file(tmp_path)["sessions"]] == [10, 5, 2]
