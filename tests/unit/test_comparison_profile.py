"""A run's cost per step, measured on its first steps."""

import time
from pathlib import Path

import pytest
import torch

from graftcli.comparison.profile import _seconds_per_synthetic, _TimingStore, profile_run
from graftcli.graft.data.synthetic import Synthesis
from graftcli.graft.training.trainer import Trainer
from graftcli.runs.config import TrainOptions
from graftcli.runs.machine_settings import engine_settings, fixed_settings
from graftcli.runs.prepare import PreparedRun
from graftcli.store.cache_files import Cache
from tests.prepared_runs import prepared, run_inputs


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_inputs(tmp_path_factory.mktemp("place"), 44)


def started(place: Path, *overrides: str) -> PreparedRun:
    return prepared(place, TrainOptions(overrides=("views.synthetic=null", *overrides), batch=4))


def test_the_cost_of_a_step_is_the_time_between_two_steps(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nap, step = 0.03, Trainer.step

    def slow(self: Trainer, error: torch.Tensor) -> None:
        time.sleep(nap)
        step(self, error)

    monkeypatch.setattr(Trainer, "step", slow)
    threads = torch.get_num_threads()
    began = time.monotonic()
    pace = profile_run(started(place), place)
    took = time.monotonic() - began
    torch.set_num_threads(threads)
    assert pace.step.keys() == {"graft-1", "graft-2", "graft-3", "finish-1-2-3"}
    assert all(nap <= seconds < took / 32 + nap for seconds in pace.step.values())  # 32 steps of the whole
    assert pace.view > 0 and pace.image == 0 and 0 < pace.rest < took - 32 * nap
    assert not list(place.glob(".profile-*"))


def test_the_first_step_and_the_end_of_a_unit_are_not_timed() -> None:
    timings = _TimingStore(Cache(Path()))
    timings.step_times["graft-1"] = [0.0, 2.0, 3.0, 6.0, 7.0, 99.0]
    assert timings.step("graft-1", layered=False) == 1.5  # of 2, 1, 3 and 1
    assert timings.step("graft-1", layered=True) == 1.75
    assert timings.step("never", layered=False) == 0


def test_teacher_passes_count_new_views_only() -> None:
    timings = _TimingStore(Cache(Path()))
    timings.teacher_pass = [(0.0, 0), (2.0, 10), (3.0, 10), (10.0, 0), (14.0, 20)]
    assert timings.teacher_pass_time() == (6.0, 30)


def test_synthetic_images_are_timed_if_the_run_makes_some(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 44 images 8 are held out: 40 are requested, so some are made."""

    def make(self: Synthesis, pixels: torch.Tensor, augment: object, count: int, *rest: object) -> torch.Tensor:
        time.sleep(0.16)
        return pixels[:count]

    monkeypatch.setattr(Synthesis, "make", make)

    def price(*overrides: str) -> float:
        start = started(place, *overrides)
        return _seconds_per_synthetic(start, engine_settings(start, fixed_settings(start, place)), place)

    assert price() == 0
    assert price("views.synthetic={images: 36, steps: 10}") == 0
    assert 0.16 / 32 / 2 * 10 <= price("views.synthetic={images: 40, steps: 10}") < 0.1
