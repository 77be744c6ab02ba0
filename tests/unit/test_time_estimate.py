"""The time estimate of a run: once, early, for long runs alone, in proportion to the work."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from graftcli.cli.render_run import describe
from graftcli.events import Event, TeacherPass, TimeEstimated
from graftcli.graft.training.task_cost import passes_per_view
from graftcli.graft.training.tasks import tasks
from graftcli.models.cuts.plan import Plan, as_json
from graftcli.recipe.file import load
from graftcli.runs.config import TrainOptions
from graftcli.runs.prepare import PreparedRun
from graftcli.runs.time_estimate import with_time_estimate
from tests.engine import plan
from tests.prepared_runs import prepared, run_inputs


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_inputs(tmp_path_factory.mktemp("estimate"), 6)


def estimates(start: PreparedRun, *looks: tuple[float, int], behind: float = -1) -> list[TimeEstimated]:
    """What is foretold where the clock says so many seconds when so many views of a thousand are seen, with so many
    steps of each unit behind it."""
    events: list[Event] = []
    now = iter(seconds for seconds, _ in looks)
    listen = with_time_estimate(start, lambda unit: behind, events.append, lambda: next(now))
    for _, done in looks:
        listen(TeacherPass(done, 1000))
    assert [event for event in events if isinstance(event, TeacherPass)] == [
        TeacherPass(done, 1000) for _, done in looks
    ]
    return [event for event in events if isinstance(event, TimeEstimated)]


def macs(of: Plan, side: str) -> list[int]:
    return [block[side]["macs"] for block in as_json(of)["blocks"]]


def test_the_estimate_of_a_long_run_follows_its_work(place: Path) -> None:
    """Two seconds a look: the views that there are, and steps of the whole student, forwards, back and a bit."""
    length = ("stages.finish.epochs=null", "stages.finish.steps=300", "stages.finish.batch=4", "views.count=100")
    how = TrainOptions(recipe="kd", overrides=length)
    start = prepared(place, how)
    (found,) = estimates(start, (50.0, 0), (52.0, 1), (54.0, 2), (90.0, 20))
    share = sum(macs(start.plan, "student")) / sum(macs(start.plan, "teacher"))
    assert found.steps == 300
    assert found.seconds == pytest.approx(2.0 * (6 * 100 + 300 * 4 * 4 * share))


def test_the_estimate_of_a_resumed_run_is_for_what_is_left(place: Path) -> None:
    length = ("stages.finish.epochs=null", "stages.finish.steps=300", "stages.finish.batch=4", "views.count=100")
    start = prepared(place, TrainOptions(recipe="kd", overrides=length))
    looks = ((0.0, 40), (20.0, 50))
    share = sum(macs(start.plan, "student")) / sum(macs(start.plan, "teacher"))
    for behind, steps in ((200, 100), (math.inf, 0)):
        (found,) = estimates(start, *looks, behind=behind)
        assert found.steps == steps
        assert found.seconds == pytest.approx(2.0 * (600 - 40 + steps * 4 * 4 * share))


def test_cached_views_do_not_hide_the_cost_of_later_ones(place: Path) -> None:
    assert len(estimates(prepared(place, TrainOptions()), (0.0, 1000), (0.1, 0), (4.0, 2))) == 1


def test_runs_on_a_gpu_have_no_estimate(place: Path) -> None:
    start = replace(prepared(place, TrainOptions()), device=torch.device("cuda"))
    assert estimates(start, (0.0, 0), (4.0, 1)) == []


def test_the_estimate_comes_once_and_not_before_there_is_data(place: Path) -> None:
    start = prepared(place, TrainOptions())
    assert estimates(start, (0.0, 0), (2.9, 1)) == []
    assert len(estimates(start, (0.0, 0), (2.9, 1), (3.1, 2), (60.0, 9))) == 1
    assert len(estimates(start, (0.0, 0), (1.0, 1000))) == 1  # there is nothing more to see


def test_short_runs_have_no_estimate(place: Path) -> None:
    start = prepared(place, TrainOptions(steps_scale=0.001))
    assert estimates(start, (0.0, 0), (3.5, 900)) == []


def test_stages_whose_steps_differ_between_layers_are_not_estimated(place: Path) -> None:
    start = prepared(place, TrainOptions(recipe="cross"), "teacher*0.5")
    assert estimates(start, (0.0, 0), (3.5, 1)) == []


@pytest.mark.parametrize(("recipe", "behind"), [("graft", 0), ("netgraft", 2)])
def test_a_block_costs_more_if_its_target_is_at_the_end(recipe: str, behind: int) -> None:
    """Towards the logits, what the teacher has behind the block is computed forwards and back."""
    made = plan()
    teacher, student = macs(made, "teacher"), macs(made, "student")
    first = tasks(load(recipe), len(made.blocks), range(1, len(made.blocks) + 1))[0]
    assert passes_per_view(first, made) == pytest.approx((4 * student[0] + behind * sum(teacher[1:])) / sum(teacher))


def test_the_teachers_blocks_between_those_that_are_trained_count_too() -> None:
    made = plan()
    teacher, student = macs(made, "teacher"), macs(made, "student")
    finish = tasks(load("graft"), len(made.blocks), (1, 3))[-1]
    assert finish.blocks == (1, 3)
    assert passes_per_view(finish, made) == pytest.approx(
        (4 * (student[0] + student[2]) + 2 * teacher[1]) / sum(teacher)
    )


def test_an_estimate_of_hours_comes_with_shorter_alternatives() -> None:
    text = describe(TimeEstimated(7500, 107_000.0))
    assert "about 29.7 h for 7,500 steps" in text and "--steps-scale" in text
