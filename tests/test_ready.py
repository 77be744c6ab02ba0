"""What a run starts from."""

from pathlib import Path

import pytest
import torch

from graftcli.api.asked import Asked, How, Networks
from graftcli.api.ready import Ready, ready
from graftcli.api.scoring import Look
from graftcli.errors import UsageError
from graftcli.events import Event, Listener, Warned
from tests.nets import randomise, resnet
from tests.pictures import photos

NETS = f"{Path(__file__).resolve().parent / 'nets.py'}"
NARROW = "teacher*0.5"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    photos(folder, [f"photos/{i}.png" for i in range(4)])
    torch.save(randomise(resnet(depth=8)).state_dict(), folder / "teacher.pth")
    return folder


def asked(
    place: Path,
    student: str,
    checkpoint: Path | str | None = None,
    overrides: tuple[str, ...] = (),
    listen: Listener = lambda event: None,
) -> Ready:
    teacher = f"{NETS}:resnet(depth=8)"
    given = None if checkpoint is None else str(checkpoint)
    networks = Networks(teacher, student, teacher_checkpoint=str(place / "teacher.pth"), student_checkpoint=given)
    return ready(Asked(networks, str(place / "photos"), None, Look(), How(overrides=overrides)), None, listen)


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
        asked(place, student, None, overrides, heard.append)
        return [event.text for event in heard if isinstance(event, Warned)]

    own = f"{NETS}:resnet(depth=8)"
    said = "init=least-squares is for a student just made from the teacher: this one starts by inherit"
    assert said in told(own, "init=least-squares")
    assert not any(line.startswith("init=") for line in told(own) + told(NARROW, "init=least-squares"))


def test_weights_that_a_recipe_would_not_use_are_refused_in_its_own_words(place: Path) -> None:
    with pytest.raises(UsageError, match="recipe graft has `init: least-squares` and would not use it"):
        asked(place, f"{NETS}:resnet(depth=8)", place / "teacher.pth")
