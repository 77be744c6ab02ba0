"""The whole method on tiny networks: results, resuming, and the same bytes every time."""

from pathlib import Path

import pytest
import torch

from graftcli.errors import GateError, UsageError
from graftcli.events import Event, MergeChecked, TaskFinished, TaskStarted, TaskStep, TeacherPass, Warned
from graftcli.graft.backend.precision import Precision
from graftcli.graft.engine import weights_digest
from graftcli.graft.settings import EngineSettings
from graftcli.graft.training.tasks import check_tasks, tasks
from graftcli.recipe.values import Augment
from graftcli.store import intervals
from tests.engine import Memory, plan, recipe, trained


def test_the_student_comes_out_stock_and_the_teacher_as_it_was(tmp_path: Path) -> None:
    made = plan()
    before = weights_digest(made.teacher.network.module)
    outcome = trained(made, Memory(tmp_path))
    assert weights_digest(made.teacher.network.module) == before
    assert outcome.merged.stock
    assert outcome.merged.module.state_dict().keys() == made.student.network.module.state_dict().keys()
    assert outcome.errors[0] < 1e-9
    assert outcome.errors[1] < 1e-4


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    longer = recipe().model_copy(
        update={"stages": tuple(s.model_copy(update={"steps": (150,)}) for s in recipe().stages)}
    )
    first, last = Memory(tmp_path), Memory(tmp_path)
    trained(plan(), first)
    trained(plan(), last, longer)
    for name in ("graft-1", "graft-2", "finish-1-2-3"):
        losses = [[r["loss"] for r in memory.records if r["unit"] == name][-1] for memory in (first, last)]
        assert losses[1] < 0.8 * losses[0], name


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not(tmp_path: Path) -> None:
    digests = [
        weights_digest(trained(plan(), Memory(tmp_path), settings=EngineSettings(seed=seed)).merged.module)
        for seed in (0, 0, 1)
    ]
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


class Killed(Exception):
    pass


_BREAKS = ((1, "frozen", False), (2, "train", False), (4, "frozen", False), (7, "train", False), (3, "train", True))
_OTHER_BREAKS = [(after, norm, False) for after in range(1, 9) for norm in ("frozen", "train")]


@pytest.mark.parametrize(
    ("after", "batchnorm", "amp"),
    [
        *_BREAKS,
        *(pytest.param(*case, marks=pytest.mark.nightly) for case in _OTHER_BREAKS if case not in _BREAKS),
    ],
)
def test_a_run_interrupted_anywhere_resumes_to_the_same_bytes(
    tmp_path: Path, after: int, batchnorm: str, amp: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every step is kept, and the run breaks off again and again; its first task sees the most views."""
    settings = EngineSettings(precision=Precision(torch.device("cpu"), amp))
    monkeypatch.setattr(intervals, "SAVE_SECONDS", -1.0)
    monkeypatch.setattr(intervals, "REPORT_SECONDS", -1.0)
    stages = recipe().stages
    first = stages[0].model_copy(update={"steps": (11, 5), "batchnorm": batchnorm})
    others = (stage.model_copy(update={"batchnorm": batchnorm}) for stage in stages[1:])
    uneven = recipe().model_copy(update={"stages": (first, *others)})
    expected = weights_digest(trained(plan(), Memory(tmp_path), uneven, settings).merged.module)
    store, breaks = Memory(tmp_path), 0
    for _ in range(100):
        seen = 0

        def listen(event: Event) -> None:
            nonlocal seen
            seen += isinstance(event, TaskStarted | TaskStep | TaskFinished)
            if seen > 3 * after:
                raise Killed

        try:
            outcome = trained(plan(), store, uneven, settings, listen=listen)
        except Killed:
            breaks += 1
            continue
        break
    assert breaks > 0
    assert weights_digest(outcome.merged.module) == expected


def test_in_bfloat16_a_run_comes_out_nearly_the_same(tmp_path: Path) -> None:
    losses = {}
    for amp in (False, True):
        store = Memory(tmp_path / str(amp))
        outcome = trained(plan(), store, settings=EngineSettings(precision=Precision(torch.device("cpu"), amp)))
        losses[amp] = [
            one["loss"] for one in store.records if "-" in one["unit"] and not one["unit"].startswith("connect")
        ]
        assert {tensor.dtype for tensor in outcome.merged.module.state_dict().values()} <= {torch.float32, torch.int64}
    assert losses[True] != losses[False]
    assert losses[True] == pytest.approx(losses[False], rel=0.05)


@pytest.mark.parametrize("memory, disk", [(0, 0), (0, 10**9), (20_000, 10**9)])
def test_where_features_are_cached_changes_nothing(tmp_path: Path, memory: int, disk: int) -> None:
    whole = trained(plan(), Memory(tmp_path), count=40)
    other = trained(plan(), Memory(tmp_path), settings=EngineSettings(memory=memory, disk=disk), count=40)
    assert (tmp_path / "cache").exists() == bool(disk)
    assert other.score and whole.score and other.score.agreement == whole.score.agreement
    for name, tensor in whole.merged.module.state_dict().items():
        assert torch.allclose(tensor, other.merged.module.state_dict()[name], rtol=1e-4, atol=1e-5), name


def test_only_the_chosen_blocks_are_replaced(tmp_path: Path) -> None:
    made, store = plan(), Memory(tmp_path)
    outcome = trained(made, store, settings=EngineSettings(blocks=(2, 3)))
    assert set(store.units) == {"graft-2", "graft-3", "graft", "connect-2-3", "finish-2-3"}
    keys = outcome.merged.module.state_dict().keys()
    assert any(key.startswith("teacher.stages.0.") for key in keys)
    assert not any(key.startswith("student.stages.0.") for key in keys)
    assert not outcome.merged.stock
    assert outcome.errors[0] < 1e-9


@pytest.mark.parametrize(
    ("trains", "chosen", "units"),
    [
        (("student",), (2,), [(2,)]),
        (("blocks", "student"), (2,), [(2,), (2,)]),
        (("blocks", "growing"), (2,), [(2,)]),
        (("blocks", "student"), (1, 3), [(1,), (3,), (1, 3)]),
        (("blocks", "growing"), (2, 3), [(2,), (3,), (2, 3)]),
        (("half", "student"), (3,), [(3,)]),
        (("half", "student"), (1,), [(1,), (1,)]),
        (("growing",), (2,), []),
    ],
)
def test_chosen_blocks_are_connected_with_their_neighbours_and_finished(
    trains: tuple[str, ...], chosen: tuple[int, ...], units: list[tuple[int, ...]]
) -> None:
    first = recipe().stages[0]
    stages = tuple(first.model_copy(update={"name": name, "train": name}) for name in trains)
    whole = recipe().model_copy(update={"stages": stages})
    assert [task.blocks for task in tasks(whole, 3, chosen)] == units


def test_a_recipe_that_trains_nothing_in_the_chosen_block_is_refused() -> None:
    growing = recipe().model_copy(update={"stages": recipe().stages[1:2]})
    with pytest.raises(UsageError, match="trains groups of neighbouring blocks, and --blocks selects 2 of 3"):
        check_tasks(growing, 3, (2,))


def test_held_out_images_are_measured_and_not_trained_on(tmp_path: Path) -> None:
    events: list[Event] = []
    outcome = trained(plan(), Memory(tmp_path), count=40, listen=events.append)
    assert outcome.held_out == 8
    assert outcome.score is not None and 0 <= outcome.score.agreement <= 1 and outcome.score.kl >= 0
    assert next(e for e in events if isinstance(e, TeacherPass)).total == 32
    assert all(e.agreement is not None for e in events if isinstance(e, TaskFinished))
    assert trained(plan(), Memory(tmp_path), count=39).score is None


def test_a_stage_with_views_of_its_own_sees_those(tmp_path: Path) -> None:
    """Blocks that are trained before it end as they did; the teacher looks at each kind of view once."""
    stages = recipe().stages
    shifted = stages[2].model_copy(update={"augment": Augment(flip=True)})
    other = recipe().model_copy(update={"stages": (*stages[:2], shifted)})
    one, two, looks = Memory(tmp_path), Memory(tmp_path), list[Event]()
    trained(plan(), one)
    trained(plan(), two, other, listen=looks.append)
    alike = {name for name in one.units if same_tensors(one, two, name)}
    assert alike == {"graft-1", "graft-2", "graft-3", "graft", "connect-1-2", "connect-1-2-3"}
    assert [event.done for event in looks if isinstance(event, TeacherPass)] == [0, 24, 0, 24]


def same_tensors(one: Memory, two: Memory, unit: str) -> bool:
    ended = [memory.units[unit].finished for memory in (one, two)]
    assert ended[0] is not None and ended[1] is not None
    return all(torch.equal(tensor, ended[1][0][name]) for name, tensor in ended[0][0].items())


def test_the_events_tell_how_far_the_run_is(tmp_path: Path) -> None:
    events: list[Event] = []
    trained(plan(), Memory(tmp_path), listen=events.append)
    began = [e for e in events if isinstance(e, TaskStarted)]
    assert [(e.stage, e.first, e.last) for e in began] == [
        ("graft", 1, 1),
        ("graft", 2, 2),
        ("graft", 3, 3),
        ("connect", 1, 2),
        ("connect", 1, 3),
        ("finish", 1, 3),
    ]
    assert [e.done for e in began] == [0, 6, 12, 18, 24, 30]
    assert {e.total for e in began} == {36}
    assert isinstance(events[-1], MergeChecked)


def test_a_diverging_loss_is_retried_once_and_then_refused(tmp_path: Path) -> None:
    events: list[Event] = []
    wild = recipe().model_copy(update={"stages": tuple(s.model_copy(update={"lr": (1e30,)}) for s in recipe().stages)})
    with pytest.raises(GateError, match="graft-1: the loss diverged again") as caught:
        trained(plan(), Memory(tmp_path), wild, listen=events.append)
    assert "stages.graft.lr" in caught.value.fix
    assert sum(isinstance(e, Warned) for e in events) == 1
