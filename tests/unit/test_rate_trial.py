"""Short trials choose the learning-rate factor of a task."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from graftcli.errors import UsageError
from graftcli.events import Event, RateChosen
from graftcli.graft.engine import weights_digest
from graftcli.graft.training.judge import Score, Watch
from graftcli.graft.training.rate_trial import best_factor, trial_steps, with_trials
from graftcli.graft.training.tasks import tasks, trained_modules
from graftcli.recipe import Recipe
from graftcli.recipe.file import load
from graftcli.store import intervals
from tests.engine import Memory, context, plan, recipe, trained


def with_factors(*factors: float, steps: int = 200, lr: float = 1e-3) -> Recipe:
    """Blocks alone, with factors of the rate to try."""
    stage = recipe().stages[0].model_copy(update={"lr_factors": factors, "steps": (steps,), "lr": (lr,)})
    return recipe().model_copy(update={"stages": (stage,)})


@pytest.mark.parametrize(
    ("factors", "steps", "each"),
    [((1.0, 0.1), 99, 0), ((1.0, 0.1), 100, 6), ((1.0, 0.1), 4500, 90), ((0.5,), 4500, 0)],
)
def test_a_trial_takes_two_hundredths_of_the_steps(factors: tuple[float, ...], steps: int, each: int) -> None:
    stage = with_factors(*factors).stages[0]
    assert trial_steps(stage, steps) == each
    assert with_trials(stage, steps) == steps + len(factors) * each


@pytest.mark.parametrize(
    ("losses", "chosen"),
    [
        ((0.9, 0.2, 0.4), 0.3),
        ((0.4, 0.2, 0.3), 1.0),
        ((0.9, 0.8, 0.6), 0.1),
        ((math.nan, 0.5, 0.4), 0.1),
        ((math.nan, math.inf, math.nan), 0.1),
        ((None, 0.5, None), 0.3),
    ],
)
def test_the_highest_factor_that_lowers_the_loss_is_chosen_and_the_weights_are_as_before(
    losses: tuple[float | None, ...], chosen: float, tmp_path: Path
) -> None:
    given = context(tmp_path)
    task = tasks(with_factors(1.0, 0.3, 0.1), 3, (1, 2, 3))[0]
    moving = nn.ModuleList(trained_modules(task, given.pieces))
    before = weights_digest(moving)
    seen: list[str] = []

    def scores() -> Iterator[Score]:
        for loss in losses:
            seen.append(weights_digest(moving))
            yield Score(0.5, 0.1, loss)

    each = scores()
    watch = Watch(Score(0.5, 0.1, 0.5), (), lambda: next(each))
    assert best_factor(task, given, moving, watch) == chosen
    assert weights_digest(moving) == before
    assert len({before, *seen}) == 4  # each trial has moved them, and each otherwise


def test_a_fraction_of_a_diverging_rate_is_taken(tmp_path: Path) -> None:
    events: list[Event] = []
    trained(plan(), Memory(tmp_path), with_factors(1.0, 1e-3, lr=1.0), count=40, listen=events.append)
    assert [event.factor for event in events if isinstance(event, RateChosen)] == [1e-3] * 3


class Killed(Exception):
    pass


def test_a_run_interrupted_after_its_trials_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intervals, "SAVE_SECONDS", -1.0)
    wanted = with_factors(1.0, 1e-2, lr=1.0)
    whole = trained(plan(), Memory(tmp_path / "whole"), wanted)
    store = Memory(tmp_path / "broken")
    unit, kept = store.unit("graft-1"), 0

    def keep(step: int, state: dict[str, Any]) -> None:
        nonlocal kept
        unit.state, kept = state, kept + 1
        if kept == 3:
            raise Killed

    monkeypatch.setattr(unit, "keep", keep)
    with pytest.raises(Killed):
        trained(plan(), store, wanted)
    assert unit.state is not None and unit.state["course"]["factor"] == 1e-2
    monkeypatch.setattr(unit, "keep", lambda *_: None)
    again = trained(plan(), store, wanted)
    assert weights_digest(again.merged.module) == weights_digest(whole.merged.module)


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("fskd", "stages.fskd.lr_factors=[1, 0.1]", "is given"),
        ("cross", "stages.cross.lr_factors=[1, 0.1]", "has no trials"),
        ("graft", f"stages.finish.lr_factors={[1] * 10}", "at most nine"),
        ("graft", "stages.finish.lr_factors=[0]", "nine numbers above 0"),
    ],
)
def test_factors_are_for_what_is_trained_in_blocks(name: str, change: str, expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        load(name, (change,), 1.0)


def test_trials_leave_the_random_state_alone(tmp_path: Path) -> None:
    given = context(tmp_path)
    task = tasks(with_factors(1.0, 0.3), 3, (1, 2, 3))[0]
    state = torch.get_rng_state()
    score = Score(0.5, 0.1, 0.1)
    watch = Watch(score, (), lambda: score)
    best_factor(task, given, nn.ModuleList(trained_modules(task, given.pieces)), watch)
    assert torch.equal(torch.get_rng_state(), state)
