"""A task is scored before and after it, and nothing is kept that lost agreement with the teacher."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from graftcli.events import Event, Warned
from graftcli.graft.engine import Outcome, weights_digest
from graftcli.graft.training.judge import Judge, Score, Verdict, Watch, keep_best, scoring_steps, scoring_views
from graftcli.graft.training.tasks import Task
from graftcli.recipe import Recipe
from graftcli.store import intervals
from tests.engine import Memory, plan, recipe, trained

_BEFORE = Score(0.9, 0.1)


def scoring(line: dict[float, Score], layer: nn.Linear) -> Callable[[], Score]:
    """Scores by where on the line from 0 to 1 the weight of `layer` is."""
    return lambda: line[round(layer.weight.item(), 2)]


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ({1.0: Score(0.9, 0.09)}, 1.0),  # nothing is worse: the training stays
        ({1.0: Score(0.95, 0.5)}, 1.0),
        # one more image that agrees is chance; a divergence that is twice as large is not
        ({1.0: Score(0.92, 0.2), 0.75: Score(0.92, 0.15), 0.5: Score(0.92, 0.11), 0.25: Score(0.91, 0.12)}, 0.0),
        ({1.0: Score(0.92, 0.2), 0.75: Score(0.93, 0.09), 0.5: Score(0.92, 0.05), 0.25: Score(0.89, 0.01)}, 0.5),
        ({1.0: Score(0.9, 0.5), 0.75: Score(0.9, 0.3), 0.5: Score(0.9, 0.2), 0.25: Score(0.9, 0.15)}, 0.0),
        ({1.0: Score(0.9, float("nan")), 0.75: Score(0.9, 0.05), 0.5: Score(0.9, 0.2), 0.25: Score(0.9, 0.15)}, 0.75),
        ({1.0: Score(0.8, 0.5), 0.75: Score(0.89, 0.1), 0.5: Score(0.89, 0.1), 0.25: Score(0.89, 0.01)}, 0.0),
        ({1.0: Score(0.8, 0.5), 0.75: Score(0.95, 0.1), 0.5: Score(0.91, 0.1), 0.25: Score(0.9, 0.1)}, 0.75),
        ({1.0: Score(0.8, 0.5), 0.75: Score(0.85, 0.1), 0.5: Score(0.9, 0.09), 0.25: Score(0.9, 0.05)}, 0.25),
        ({1.0: Score(0.8, 0.5), 0.75: Score(0.9, float("nan")), 0.5: Score(0.9, 0.2), 0.25: Score(0.9, 0.3)}, 0.0),
        ({1.0: Score(0.8, 0.5), 0.75: Score(0.9, 0.1), 0.5: Score(0.9, 0.1), 0.25: Score(0.9, 0.1)}, 0.75),
    ],
)
def test_the_best_point_on_the_line_is_kept(line: dict[float, Score], kept: float) -> None:
    layer = nn.Linear(1, 1, bias=False)
    start = {"weight": torch.zeros(1, 1)}
    layer.weight.data.fill_(1.0)
    verdict = keep_best(layer, start, _BEFORE, scoring(line, layer), margin=0.04)
    assert layer.weight.item() == verdict.fraction == kept
    assert verdict.kept == ({**line, 0.0: _BEFORE})[kept]
    assert verdict.kept.agreement >= verdict.before.agreement
    assert verdict.is_setback == (kept < 1)


def test_counters_are_the_later_ones_but_for_the_weights_before() -> None:
    norm = nn.BatchNorm1d(2)
    start = {name: tensor.clone() for name, tensor in norm.state_dict().items()}
    norm(torch.randn(4, 2) * 3 + 1)
    end = {name: tensor.clone() for name, tensor in norm.state_dict().items()}
    scores = iter((Score(0.8, 1), Score(0.8, 1), Score(0.95, 1), Score(0.8, 1)))
    assert keep_best(norm, start, _BEFORE, lambda: next(scores), margin=0.04).fraction == 0.5
    assert int(norm.num_batches_tracked or 0) == 1
    assert torch.allclose(norm.state_dict()["running_mean"], (start["running_mean"] + end["running_mean"]) / 2)


@pytest.mark.parametrize(
    ("scores", "falls"),
    [
        ([(0.8, 0.2), (0.7, 0.3), (0.6, 0.4), (0.5, 0.5)], True),
        ([(0.8, 0.2), (0.7, 0.3), (0.6, 0.4)], False),  # too few to tell
        ([(0.8, 0.2), (0.7, 0.3), (0.75, 0.25), (0.5, 0.5)], False),
        ([(0.8, 0.2), (0.7, 0.3), (0.6, 0.25), (0.5, 0.5)], False),  # its answers came nearer once
        ([(0.8, 0.2), (0.7, 0.3), (0.6, 0.4), (0.5, 0.5), (0.55, 0.5)], False),
    ],
)
def test_a_task_that_loses_ground_at_each_mark_only_falls(scores: list[tuple[float, float]], falls: bool) -> None:
    marks = tuple(range(10, 80, 10))
    watch = Watch(_BEFORE, marks, lambda: _BEFORE)
    assert watch.is_falling({mark: Score(*score) for mark, score in zip(marks, scores, strict=False)}) == falls


def test_a_task_whose_loss_falls_continues_although_its_logits_move_away() -> None:
    """So does a block that is trained from random weights in its first steps."""
    marks, loss = tuple(range(10, 80, 10)), iter((0.9, 0.8, 0.7, 0.6))
    watch = Watch(Score(0.12, 2.0, 1.0), marks, lambda: _BEFORE)
    scores = {mark: Score(0.1, 2 + mark, next(loss)) for mark in marks[:4]}
    assert not watch.is_falling(scores)
    assert watch.is_falling({mark: replace(score, loss=1.0) for mark, score in scores.items()})


def test_scoring_is_a_small_share_of_a_task() -> None:
    assert scoring_views(task_cost=1e6, view_cost=1.5) == 512 and scoring_views(task_cost=100, view_cost=1.5) == 128
    for work in (1e3, 1e4, 1e5, 1e6):
        views = scoring_views(work, 1.5)
        marks = scoring_steps(1000, work, views * 1.5)
        assert len(marks) * views * 1.5 <= 0.03 * work
        assert len(marks) in (0, 4, 5, 6, 7)
    assert scoring_steps(800, 1e9, 1.0) == (100, 200, 300, 400, 500, 600, 700)


# -- in a run -----------------------------------------------------------------------------------------------------


def ruinous(lr: float = 0.3) -> Recipe:
    """Blocks, then a last stage whose rate is far too high."""
    stages = recipe().stages
    last = stages[2].model_copy(update={"lr": (lr,), "steps": (40,), "ema": None})
    return recipe().model_copy(update={"stages": (stages[0], last)})


def test_a_stage_that_ruins_the_student_is_undone_with_a_warning(tmp_path: Path) -> None:
    events: list[Event] = []
    store = Memory(tmp_path)
    outcome = trained(plan(), store, ruinous(), count=40, listen=events.append)
    verdict = outcome.verdicts["finish-1-2-3"]
    assert verdict.after.agreement < verdict.before.agreement <= verdict.kept.agreement
    assert verdict.fraction < 1
    texts = [event.text for event in events if isinstance(event, Warned)]
    assert any("finish-1-2-3 made the student worse" in text and "--set stages.finish.lr=0.1" in text for text in texts)
    assert store.records[-1]["fraction"] == verdict.fraction


def test_of_a_stage_without_any_use_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A student after blocks alone, once by a last stage that is taken back, once by one that hardly moves."""
    monkeypatch.setattr("graftcli.graft.training.judge.FRACTIONS", ())
    back = trained(plan(), Memory(tmp_path / "back"), ruinous(), count=40)
    assert back.verdicts["finish-1-2-3"].fraction == 0
    still = trained(plan(), Memory(tmp_path / "still"), ruinous(1e-12), count=40)
    held = still.merged.module.state_dict()
    for name, tensor in back.merged.module.state_dict().items():
        assert torch.allclose(tensor, held[name], rtol=1e-6, atol=1e-8), name


def test_blocks_that_are_worse_joined_are_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block alone scores the same before and after; the joined ones lose what they had."""
    weights: list[str] = []

    def measured(self: Judge, blocks: tuple[int, ...], views: int, task: Task | None = None) -> Score:
        if len(blocks) < 3:
            return _BEFORE
        weights.append(weights_digest(nn.ModuleList(self.pieces.student)))
        return Score(0.9, 0.1) if weights[-1] == weights[0] else Score(0.5, 0.9)

    monkeypatch.setattr(Judge, "measured", measured)
    events: list[Event] = []
    store, blocks = Memory(tmp_path), recipe().model_copy(update={"stages": recipe().stages[:1]})
    made = plan()
    outcome = trained(made, store, blocks, listen=events.append)
    assert outcome.verdicts["graft"] == Verdict(_BEFORE, Score(0.5, 0.9), _BEFORE, 0.0)
    assert len(set(weights)) > 2 and all(
        verdict.fraction == 1 for name, verdict in outcome.verdicts.items() if "-" in name
    )
    texts = [event.text for event in events if isinstance(event, Warned)]
    assert any(text.startswith("stage graft, with its blocks together, made the student worse") for text in texts)
    again = trained(plan(), store, blocks)
    assert again.verdicts["graft"] == outcome.verdicts["graft"]
    assert weights_digest(again.merged.module) == weights_digest(outcome.merged.module)


def test_random_weights_are_never_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training is kept whatever the scores of blocks that start from random weights; later tasks are judged."""
    falling = iter(range(10**6))
    monkeypatch.setattr(Judge, "measured", lambda *_: Score(1 / (1 + next(falling)), 0.1))
    outcome = trained(plan(), Memory(tmp_path), recipe().model_copy(update={"init": "random"}))
    fractions = {name: verdict.fraction for name, verdict in outcome.verdicts.items()}
    assert [fractions[f"graft-{block}"] for block in (1, 2, 3)] == [1, 1, 1] and "graft" not in fractions
    assert fractions["finish-1-2-3"] == 0


@pytest.mark.parametrize(("count", "judged_on"), [(12, "all"), (60, "all"), (400, "held out")])
def test_a_few_held_out_images_do_not_judge_alone(count: int, judged_on: str, tmp_path: Path) -> None:
    """Agreement is still reported on the held-out images, whatever tasks are judged on."""
    store = Memory(tmp_path)
    outcome = trained(plan(), store, recipe().model_copy(update={"stages": recipe().stages[2:]}), count=count)
    record = store.records[-1]
    held_out = count // 10 if count >= 40 else 0
    assert outcome.held_out == (max(8, held_out) if held_out else 0)
    if judged_on == "held out":
        assert record["agreement"] == outcome.verdicts["finish-1-2-3"].kept.agreement
    elif held_out:
        assert outcome.score is not None and record["agreement"] == outcome.score.agreement
        assert record["agreement"] * 64 == pytest.approx(round(record["agreement"] * 64))  # 8 views of 8 images
    else:
        assert record["agreement"] is None


class Killed(Exception):
    pass


def test_a_task_that_only_falls_is_ended_early_and_resumes_to_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intervals, "SAVE_SECONDS", -1.0)
    monkeypatch.setattr(
        "graftcli.graft.training.task_scoring.scoring_steps", lambda steps, *_: tuple(range(5, steps, 5))
    )
    ranks = {5: 0.4, 10: 0.3, 15: 0.2, 20: 0.1}
    monkeypatch.setattr(
        "graftcli.graft.training.trainer.Trainer.score",
        lambda self: self.watch and self.train_state.scores.update(falling(ranks, self.train_state.step)),
    )
    whole = trained(plan(), Memory(tmp_path / "whole"), ruinous(), count=40)
    assert whole.verdicts["finish-1-2-3"].stopped == 20
    store = Memory(tmp_path / "resumed")
    monkeypatch.setattr("graftcli.graft.training.runner.keep_best", killed)
    with pytest.raises(Killed):
        trained(plan(), store, ruinous(), count=40)
    monkeypatch.setattr("graftcli.graft.training.runner.keep_best", keep_best)
    resumed: Outcome = trained(plan(), store, ruinous(), count=40)
    assert resumed.verdicts == whole.verdicts
    assert weights_digest(resumed.merged.module) == weights_digest(whole.merged.module)


def killed(*_: object) -> None:
    raise Killed


def falling(ranks: dict[int, float], step: int) -> dict[int, Score]:
    return {step: Score(ranks[step], 10 - ranks[step])} if step in ranks else {}


def test_without_held_out_images_unseen_views_are_scored(tmp_path: Path) -> None:
    events: list[Event] = []
    outcome = trained(plan(), Memory(tmp_path), ruinous(), count=12, listen=events.append)
    assert outcome.score is None
    assert outcome.verdicts["finish-1-2-3"].fraction < 1
    assert any(isinstance(event, Warned) and "unseen views of the images" in event.text for event in events)


def test_what_was_decided_is_the_same_after_a_finished_task_is_read_again(tmp_path: Path) -> None:
    store = Memory(tmp_path)
    first = trained(plan(), store, ruinous(), count=40)
    assert trained(plan(), store, ruinous(), count=40).verdicts == first.verdicts
    assert replace(first.verdicts["finish-1-2-3"], fraction=1.0).is_setback is False
