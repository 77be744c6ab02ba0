"""Layer-wise training through the engine: what it changes, in which order, and resuming."""

from pathlib import Path
from typing import Any

import pytest
import torch

from graftcli.errors import GateError
from graftcli.events import Event, TaskStarted, TaskStep, Warned
from graftcli.graft.engine import weights_digest
from graftcli.graft.settings import EngineSettings
from graftcli.graft.surgery.seams import graft, seams
from graftcli.models.cuts.plan import Plan
from graftcli.recipe import Recipe
from graftcli.store import intervals
from tests.engine import Memory, made_plan, recipe, trained

SOLVED = {"optimizer": "least-squares", "steps": 3}
WAYS = {
    "fskd": {**SOLVED, "input": "student"},
    "grail": {**SOLVED, "input": "student", "solve": "inputs"},
    "cross": {"input": "mix", "mu": 0.7, "steps": 4, "lr": 1e-3},
}


def by_layer(**stage: object) -> Recipe:
    defaults = {"name": "layers", "train": "layers", "targets": [{"at": "output", "loss": "mse"}], "batch": 8}
    return recipe(stages=[{**defaults, **stage}], adapters={"start": "identity"})


def error_of(made: Plan) -> float:
    """How far the student's logits are from the teacher's, on images that nothing was trained on."""
    images = torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        teacher_logits, student_logits = made.teacher.network.module(images), made.student.network.module(images)
    return float((teacher_logits - student_logits).square().mean() / teacher_logits.square().mean())


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("spec", ["prune:l1=0.4", "prune:act=0.4", "lowrank:0.5"])
def test_a_made_student_comes_nearer_to_its_teacher(way: str, spec: str, tmp_path: Path) -> None:
    """Where all channels are left, there is none to make again."""
    made = made_plan(spec)
    before = error_of(made)
    teacher = weights_digest(made.teacher.network.module)
    wanted = by_layer(**WAYS[way] | ({"steps": 100} if way == "cross" else {}))
    outcome = trained(made, Memory(tmp_path), wanted, count=40)
    assert outcome.errors[0] < 1e-9 and weights_digest(made.teacher.network.module) == teacher
    after = error_of(made)
    limit = 1.0 if (way, spec) == ("grail", "lowrank:0.5") else 0.9
    assert after < limit * before


def test_views_that_do_not_fit_are_reported_and_free_memory_changes_nothing(tmp_path: Path) -> None:
    def run(settings: EngineSettings) -> tuple[list[str], str]:
        events: list[Event] = []
        made = trained(made_plan("prune:l1=0.4"), Memory(tmp_path), by_layer(**SOLVED), settings, 40, events.append)
        warnings = [event.text for event in events if isinstance(event, Warned) and "views" in event.text]
        return warnings, weights_digest(made.merged.module)

    plenty = run(EngineSettings(memory=2**32))
    assert run(EngineSettings(memory=0)) == plenty and plenty[0] == []
    few = run(EngineSettings(layer_view_bytes=0))
    assert few[0] == ["stage layers uses 8 views instead of 24: more do not fit in 0.0 GiB"] and few[1] != plenty[1]


def test_layers_that_stay_as_they_are_are_named(tmp_path: Path) -> None:
    """What reads the second of two convolutions is not what the teacher's one reads: only the head is solved."""
    events: list[Event] = []
    trained(made_plan("lowrank:0.5"), Memory(tmp_path), by_layer(**WAYS["grail"]), listen=events.append)
    (warned,) = [event.text for event in events if isinstance(event, Warned)]
    assert warned.startswith("stage layers trains 1 of 10 layers; skipped: ")
    steps = [event for event in events if isinstance(event, TaskStep)]
    assert [(event.step, event.steps) for event in steps] == [(1, 1)]


@pytest.mark.parametrize("spec", ["prune:act=0.4", "prune:l1=0.4"])
def test_the_way_over_a_cut_changes_nothing_for_a_made_student(spec: str, tmp_path: Path) -> None:
    """Seams select the channels that the student has kept: the chain of its blocks is the student."""
    made = made_plan(spec)
    images = torch.randn(5, 3, 16, 16)
    with torch.no_grad():
        whole = made.student.network.module(images)
    joined: list[Any] = []

    def catch(plan: Plan, where: Any) -> Any:
        joined.extend(seams(plan, where))
        return joined

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("graftcli.graft.engine.seams", catch)
        trained(made, Memory(tmp_path), by_layer(**{**WAYS["fskd"], "ridge": 1e6}))
    with torch.no_grad():
        chained = graft(made, joined, (1, 2, 3))(images)
    assert torch.allclose(chained, whole, rtol=1e-3, atol=1e-3 * float(whole.abs().max()))


class Killed(Exception):
    pass


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("after", [2, 7])
def test_a_run_interrupted_anywhere_resumes_to_the_same_bytes(
    way: str, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intervals, "SAVE_SECONDS", -1.0)
    monkeypatch.setattr(intervals, "REPORT_SECONDS", -1.0)
    wanted = by_layer(**WAYS[way])
    expected = weights_digest(trained(made_plan("prune:l1=0.4"), Memory(tmp_path), wanted).merged.module)
    store, breaks = Memory(tmp_path), 0
    while breaks < 200:
        steps = 0

        def listen(event: Event) -> None:
            nonlocal steps
            steps += isinstance(event, TaskStep)
            if steps > after:
                raise Killed

        try:
            outcome = trained(made_plan("prune:l1=0.4"), store, wanted, listen=listen)
        except Killed:
            breaks += 1
            continue
        break
    assert breaks > 0
    assert weights_digest(outcome.merged.module) == expected


def test_the_steps_of_all_layers_are_counted(tmp_path: Path) -> None:
    events: list[Event] = []
    trained(made_plan("prune:l1=0.4"), Memory(tmp_path), by_layer(**WAYS["cross"]), listen=events.append)
    began = [event for event in events if isinstance(event, TaskStarted)]
    assert [(event.step, event.steps, event.total) for event in began] == [(0, 40, 40)]  # ten layers
    assert max(event.step for event in events if isinstance(event, TaskStep)) == 40


def test_only_the_layers_of_the_chosen_blocks_change(tmp_path: Path) -> None:
    made = made_plan("prune:l1=0.4")
    before = {name: t.clone() for name, t in made.student.network.module.state_dict().items()}
    trained(made, Memory(tmp_path), by_layer(**WAYS["fskd"]), EngineSettings(blocks=(2,)))
    changed = {name for name, t in made.student.network.module.state_dict().items() if not torch.equal(t, before[name])}
    assert changed and all(name.startswith("stages.1.") for name in changed)


def test_a_layer_whose_loss_diverges_is_named(tmp_path: Path) -> None:
    recipe = by_layer(input="teacher", steps=200, lr=100, optimizer="sgd")
    with pytest.raises(GateError, match=r"layers-1-2-3, stages\.0\.0\.0: the loss diverged again"):
        trained(made_plan("prune:l1=0.4"), Memory(tmp_path), recipe)
