"""Preparing a run: what it starts from, and its warnings."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from graftcli.errors import CheckpointError, UsageError
from graftcli.events import Event, Warned
from graftcli.models.loading.in_memory import spec_of
from graftcli.runs.config import TrainOptions
from graftcli.runs.prepare import PreparedRun, prepare_run
from tests.image_files import photos
from tests.nets import NETS, resnet
from tests.prepared_runs import OWN, prepared, run_config, run_inputs

NARROW = "teacher*0.5"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_inputs(tmp_path_factory.mktemp("place"), 4)


def with_defaults(place: Path, student: str, checkpoint: Path | str | None = None) -> PreparedRun:
    return prepared(place, TrainOptions(), student, checkpoint)


def test_a_student_just_made_from_the_teacher_has_its_layers_solved_for(place: Path) -> None:
    assert with_defaults(place, NARROW).recipe.init == "least-squares"


def test_weights_that_a_made_student_brings_with_it_are_kept(place: Path) -> None:
    """Solved for, what an earlier training gave them would be lost."""
    first = with_defaults(place, NARROW)
    torch.save(first.plan.student.network.module.state_dict(), place / "narrow.pth")
    for checkpoint in (place / "narrow.pth", "none"):
        assert with_defaults(place, NARROW, checkpoint).recipe.init == "inherit"


def test_a_teacher_with_random_weights_is_refused_unless_none_is_given(place: Path) -> None:
    config = run_config(place, TrainOptions())

    def warnings_of(teacher: str, checkpoint: str | None) -> list[str]:
        events: list[Event] = []
        networks = replace(config.networks, teacher=teacher, teacher_checkpoint=checkpoint)
        prepare_run(replace(config, networks=networks), None, events.append)
        return [event.text for event in events if isinstance(event, Warned) and "random weights" in event.text]

    random, loaded = f"{NETS}:resnet(depth=14)", place / "loads.py"
    loaded.write_text(
        "from pathlib import Path\nimport torch\nfrom tests.nets import resnet\n\n"
        "def net():\n    made = resnet(14)\n"
        "    made.load_state_dict(torch.load(Path(__file__).with_name('teacher.pth')))\n    return made\n"
    )
    with pytest.raises(CheckpointError, match="teacher `resnet` has random weights") as caught:
        warnings_of(random, None)
    assert "--teacher-checkpoint FILE" in caught.value.fix and "`none`" in caught.value.fix
    assert warnings_of(random, "none") == ["teacher resnet has random weights: its predictions are meaningless"]
    for checkpoint in (None, "none"):
        assert not warnings_of(f"{loaded}:net", checkpoint)
        assert not warnings_of(spec_of(resnet(14)), checkpoint)


def test_a_run_warns_where_no_layer_can_be_solved_for(place: Path) -> None:
    def warnings_of(student: str, *overrides: str) -> list[str]:
        events: list[Event] = []
        prepared(place, TrainOptions(overrides=overrides), student, listen=events.append)
        return [event.text for event in events if isinstance(event, Warned)]

    warning = "init=least-squares needs a newly derived student: using init=inherit"
    assert warning in warnings_of(OWN, "init=least-squares")
    assert not any(line.startswith("init=") for line in warnings_of(OWN) + warnings_of(NARROW, "init=least-squares"))


def test_a_run_warns_of_adapters_that_will_stay(place: Path) -> None:
    """Between residual units both neighbours of a cut add: no layer is the only one to read or to give it."""

    def warnings_of(*overrides: str) -> list[str]:
        events: list[Event] = []
        prepared(place, TrainOptions(overrides=overrides), OWN, listen=events.append)
        return [event.text for event in events if isinstance(event, Warned) and "stay in the student" in event.text]

    warning = "the adapters after blocks 1 and 2 stay in the student: no layer can absorb them"
    assert warnings_of("adapters.where=always") == [warning] and warnings_of() == []


def test_a_run_warns_of_images_in_both_training_and_evaluation(place: Path) -> None:
    def warnings_of(source: Path) -> list[str]:
        events: list[Event] = []
        config = run_config(place, TrainOptions(), OWN)
        prepare_run(replace(config, val_images=str(source)), None, events.append)
        return [event.text for event in events if isinstance(event, Warned) and "also training images" in event.text]

    photos(place, [f"photos/{i}.png" for i in range(4)] + [f"others/{i}.png" for i in range(4)])
    assert warnings_of(place / "others") == []
    shutil.copy(place / "photos" / "0.png", place / "others" / "copy.png")
    assert warnings_of(place / "others") == [
        "1 of the 5 validation images are also training images: agreement will be overestimated"
    ]


def test_a_block_that_is_the_teachers_own_is_not_worth_replacing(place: Path) -> None:
    def warnings_of(blocks: str | None) -> list[str]:
        events: list[Event] = []
        prepare_run(run_config(place, TrainOptions(), "drop:layer2.1"), blocks, events.append)
        return [event.text for event in events if isinstance(event, Warned) and "saves nothing" in event.text]

    assert warnings_of("1,3") == [
        "replacing blocks 1 and 3 saves nothing: the student does not have fewer parameters or MACs there"
    ]
    assert warnings_of("1,2") == warnings_of(None) == []


def test_weights_that_a_recipe_would_not_use_are_refused_in_its_own_words(place: Path) -> None:
    with pytest.raises(UsageError, match="recipe graft has `init: least-squares` and would not use it"):
        with_defaults(place, OWN, place / "teacher.pth")
