"""What a run starts from."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from graftcli.errors import UsageError
from graftcli.events import Event, Warned
from graftcli.runs.config import TrainOptions
from graftcli.runs.prepare import PreparedRun, prepare_run
from tests.image_files import photos
from tests.prepared_runs import OWN, asked_for, begun, furnished

NARROW = "teacher*0.5"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnished(tmp_path_factory.mktemp("place"), 4)


def asked(place: Path, student: str, checkpoint: Path | str | None = None) -> PreparedRun:
    return begun(place, TrainOptions(), student, checkpoint)


def test_a_student_just_made_from_the_teacher_has_its_layers_solved_for(place: Path) -> None:
    assert asked(place, NARROW).recipe.init == "least-squares"


def test_weights_that_a_made_student_brings_with_it_are_kept(place: Path) -> None:
    """Solved for, what an earlier training gave them would be lost."""
    first = asked(place, NARROW)
    torch.save(first.plan.student.network.module.state_dict(), place / "narrow.pth")
    for checkpoint in (place / "narrow.pth", "none"):
        assert asked(place, NARROW, checkpoint).recipe.init == "inherit"


def test_who_asks_for_layers_to_be_solved_for_is_told_where_none_can_be(place: Path) -> None:
    def told(student: str, *overrides: str) -> list[str]:
        heard: list[Event] = []
        begun(place, TrainOptions(overrides=overrides), student, listen=heard.append)
        return [event.text for event in heard if isinstance(event, Warned)]

    said = "init=least-squares needs a newly derived student: using init=inherit"
    assert said in told(OWN, "init=least-squares")
    assert not any(line.startswith("init=") for line in told(OWN) + told(NARROW, "init=least-squares"))


def test_adapters_that_will_stay_are_told_before_anything_is_trained(place: Path) -> None:
    """Between residual units both neighbours of a cut add: no layer is the only one to read or to give it."""

    def told(*overrides: str) -> list[str]:
        heard: list[Event] = []
        begun(place, TrainOptions(overrides=overrides), OWN, listen=heard.append)
        return [event.text for event in heard if isinstance(event, Warned) and "stay in the student" in event.text]

    said = "the adapters after blocks 1 and 2 stay in the student: no layer can absorb them"
    assert told("adapters.where=always") == [said] and told() == []


def test_images_that_are_measured_on_and_trained_on_are_told(place: Path) -> None:
    def told(source: Path) -> list[str]:
        heard: list[Event] = []
        asked = asked_for(place, TrainOptions(), OWN)
        prepare_run(replace(asked, val_images=str(source)), None, heard.append)
        return [event.text for event in heard if isinstance(event, Warned) and "also training images" in event.text]

    photos(place, [f"photos/{i}.png" for i in range(4)] + [f"others/{i}.png" for i in range(4)])
    assert told(place / "others") == []
    shutil.copy(place / "photos" / "0.png", place / "others" / "copy.png")
    assert told(place / "others") == [
        "1 of the 5 validation images are also training images: agreement will be overestimated"
    ]


def test_a_block_that_is_the_teachers_own_is_not_worth_replacing(place: Path) -> None:
    def told(blocks: str | None) -> list[str]:
        heard: list[Event] = []
        prepare_run(asked_for(place, TrainOptions(), "drop:layer2.1"), blocks, heard.append)
        return [event.text for event in heard if isinstance(event, Warned) and "saves nothing" in event.text]

    assert told("1,3") == ["replacing blocks 1 and 3 saves nothing: the student has no fewer parameters or MACs there"]
    assert told("1,2") == told(None) == []


def test_weights_that_a_recipe_would_not_use_are_refused_in_its_own_words(place: Path) -> None:
    with pytest.raises(UsageError, match="recipe graft has `init: least-squares` and would not use it"):
        asked(place, OWN, place / "teacher.pth")
