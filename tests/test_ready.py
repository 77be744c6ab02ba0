"""What a run starts from."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from graftcli.api.asked import Asked, How, Networks
from graftcli.api.ready import Ready, ready
from graftcli.api.scoring import Look
from tests.nets import randomise, resnet

NETS = f"{Path(__file__).resolve().parent / 'nets.py'}"
NARROW = "teacher*0.5"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    generator = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for i in range(4):
        Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / "photos" / f"{i}.png")
    torch.save(randomise(resnet(depth=8)).state_dict(), folder / "teacher.pth")
    return folder


def asked(place: Path, student: str, checkpoint: Path | str | None = None) -> Ready:
    teacher = f"{NETS}:resnet(depth=8)"
    given = None if checkpoint is None else str(checkpoint)
    networks = Networks(teacher, student, teacher_checkpoint=str(place / "teacher.pth"), student_checkpoint=given)
    return ready(Asked(networks, str(place / "photos"), None, Look(), How()), None, lambda event: None)


def test_a_student_just_made_from_the_teacher_has_its_layers_solved_for(place: Path) -> None:
    assert asked(place, NARROW).recipe.init == "least-squares"


def test_weights_that_a_made_student_brings_with_it_are_kept(place: Path) -> None:
    """Solved for, what an earlier training gave them would be lost."""
    first = asked(place, NARROW)
    torch.save(first.plan.student.network.module.state_dict(), place / "narrow.pth")
    for checkpoint in (place / "narrow.pth", "none"):
        assert asked(place, NARROW, checkpoint).recipe.init == "inherit"
