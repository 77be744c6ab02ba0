"""A run's folder under two processes, under kill -9 at any moment, on a disk that is full."""

import random
import re
import socket
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import torch

from graftcli.errors import MachineError
from graftcli.store import Store, read_record
from graftcli.store.atomic import read_tensors
from tests.processes import kill, small_disk, started, wait_for
from tests.records import FIXED, SETTINGS, files, records, result

# -- two processes ------------------------------------------------------------------------------------------------


def _hold(folder: Path, ready: Path) -> None:
    with Store(folder, SETTINGS):
        ready.touch()
        time.sleep(600)


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    first = started(_hold, tmp_path / "run", tmp_path / "ready")
    wait_for(tmp_path / "ready", first)
    before = files(tmp_path / "run")
    for overwrite in (False, True):
        with pytest.raises(MachineError) as caught:
            Store(tmp_path / "run", SETTINGS, overwrite=overwrite)
        owner = f"`{tmp_path / 'run'}` is in use by process {first.pid} on {socket.gethostname()}, since "
        since = datetime.fromisoformat(caught.value.message.removeprefix(owner).removesuffix("."))
        assert abs(datetime.now() - since) < timedelta(minutes=5)
        assert "--out" in caught.value.fix and caught.value.exit_code == 7
    assert files(tmp_path / "run") == before
    kill(first)
    with Store(tmp_path / "run", SETTINGS) as store:
        assert store.resumed
    with Store(tmp_path / "run", SETTINGS):
        pass


def _try(folder: Path, answer: Path, go_home: Path) -> None:
    try:
        with Store(folder, SETTINGS):
            answer.with_suffix(".tmp").write_text("in")
            answer.with_suffix(".tmp").rename(answer)
            while not go_home.exists():
                time.sleep(0.01)
    except MachineError as err:
        answer.write_text(err.message)


def test_of_several_commands_at_once_in_a_new_folder_one_works(tmp_path: Path) -> None:
    answers = [tmp_path / f"{number}" for number in range(4)]
    processes = [started(_try, tmp_path / "new" / "run", answer, tmp_path / "go") for answer in answers]
    while not all(answer.exists() and answer.read_text() for answer in answers):
        time.sleep(0.01)
    (tmp_path / "go").touch()
    for process in processes:
        process.join()
    outcomes = sorted(answer.read_text() for answer in answers)
    assert outcomes[-1] == "in" and all(
        re.match(r"`.*` is in use by (another )?process", text) for text in outcomes[:-1]
    )
    assert [process.exitcode for process in processes] == [0] * 4


# -- kills --------------------------------------------------------------------------------------------------------

_STEPS = 40


def _train(folder: Path, ready: Path, pause: float) -> None:
    """Two units, whose state after each step is the step."""
    with Store(folder, SETTINGS) as store:
        store.fixed(lambda: FIXED.model_copy(update={"memory": random.randrange(2**60)}))
        ready.touch()
        for name in ("graft-1", "graft-2"):
            unit = store.unit(name)
            if unit.finished is not None:
                continue
            state = unit.state or {"step": 0, "weights": torch.zeros(100_000)}
            for step in range(state["step"] + 1, _STEPS + 1):
                store.metric({"unit": name, "step": step})
                unit.keep(step, {"step": step, "weights": torch.full((100_000,), step)})
                time.sleep(pause)
            unit.finish({"weights": torch.full((100_000,), _STEPS)}, {"steps": _STEPS})
        store.finish(result(images=2 * _STEPS))


def _progress(folder: Path) -> float:
    """The steps that are safe; every file is whole and agrees with itself."""
    total = 0.0
    for path in folder.rglob("*.safetensors"):
        tensors, facts = read_tensors(path)
        step = facts.get("step", _STEPS)
        values = list(tensors.values())
        assert len(values) == 1 and values[0].unique().tolist() == [step]
    for name in ("graft-1", "graft-2"):
        if (folder / "run.json").exists():
            with Store(folder, read_record(folder).settings) as store:
                unit = store.unit(name)
                total += _STEPS if unit.finished is not None else max(unit.step, 0)
    return total


def test_a_run_that_is_killed_at_random_moments_loses_nothing_that_was_kept(tmp_path: Path) -> None:
    folder, ready = tmp_path / "run", tmp_path / "ready"
    moments = random.Random(3)
    safe, kept, fixed = 0.0, set(), set()
    for _ in range(30):
        ready.unlink(missing_ok=True)
        process = started(_train, folder, ready, 0.02)
        wait_for(ready, process)
        time.sleep(moments.uniform(0, 0.06))
        kill(process)
        now = _progress(folder)
        assert now >= safe
        safe = now
        kept.add(now)
        fixed.add(read_record(folder).fixed)
        left = {name for name in files(folder) if name.endswith(".tmp")}
        assert not left, "what a kill leaves behind goes with the next start"
    assert len(kept) > 5 and len(fixed) == 1
    process = started(_train, folder, ready, 0.0)
    process.join()
    assert process.exitcode == 0 and read_record(folder).result == result(images=2 * _STEPS)
    expected = [{"unit": f"graft-{k}", "step": step} for k in (1, 2) for step in range(1, _STEPS + 1)]
    assert records(folder) == expected
    assert set(files(folder)) == {
        "run.json",
        "metrics.jsonl",
        "blocks/graft-1.safetensors",
        "blocks/graft-2.safetensors",
    }


def test_a_full_disk_keeps_the_last_good_state(tmp_path: Path) -> None:
    with small_disk(tmp_path) as disk, Store(disk / "run", SETTINGS) as store:
        unit = store.unit("graft-1")
        unit.keep(1, {"weights": torch.ones(100_000)})
        with pytest.raises(
            MachineError, match=r"graft-1.safetensors` cannot be written: No space left on device \(1.2 MB"
        ):
            unit.keep(2, {"weights": torch.ones(300_000)})
        assert unit.step == 1 and unit.state is not None and unit.state["weights"].shape == (100_000,)
