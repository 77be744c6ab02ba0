"""A folder with noise and a teacher's weights, and what a run starts from there, as tests share it."""

from pathlib import Path

import torch

from graftcli.api.asked import Asked, How, Networks
from graftcli.api.ready import Ready, ready
from graftcli.api.scoring import Look
from graftcli.events import Listener
from tests.nets import randomise, resnet
from tests.pictures import photos

NETS = f"{Path(__file__).resolve().parent / 'nets.py'}"
OWN = f"{NETS}:resnet(depth=8)"  # a student that is not made from the teacher


def furnished(folder: Path, images: int) -> Path:
    photos(folder, [f"photos/{i}.png" for i in range(images)])
    torch.manual_seed(0)
    torch.save(randomise(resnet(depth=14)).state_dict(), folder / "teacher.pth")
    return folder


def asked_for(place: Path, how: How, student: str = OWN, checkpoint: Path | str | None = None) -> Asked:
    given = None if checkpoint is None else str(checkpoint)
    weights = str(place / "teacher.pth")
    networks = Networks(f"{NETS}:resnet(depth=14)", student, teacher_checkpoint=weights, student_checkpoint=given)
    return Asked(networks, str(place / "photos"), None, Look(), how)


def begun(
    place: Path,
    how: How,
    student: str = OWN,
    checkpoint: Path | str | None = None,
    listen: Listener = lambda event: None,
) -> Ready:
    return ready(asked_for(place, how, student, checkpoint), None, listen)
