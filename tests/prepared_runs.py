"""Folders with noise images and the weights of a teacher, and runs prepared from them."""

from pathlib import Path

import torch

from graftcli.events import Listener
from graftcli.runs.config import ModelPair, RunConfig, TrainOptions
from graftcli.runs.prepare import PreparedRun, prepare_run
from graftcli.runs.scoring import PreprocessOptions
from tests.image_files import photos
from tests.nets import NETS, randomise, resnet

OWN = f"{NETS}:resnet(depth=8)"  # a student that is not derived from the teacher


def run_inputs(folder: Path, images: int) -> Path:
    photos(folder, [f"photos/{i}.png" for i in range(images)])
    torch.manual_seed(0)
    torch.save(randomise(resnet(depth=14)).state_dict(), folder / "teacher.pth")
    return folder


def run_config(place: Path, how: TrainOptions, student: str = OWN, checkpoint: Path | str | None = None) -> RunConfig:
    given = None if checkpoint is None else str(checkpoint)
    weights = str(place / "teacher.pth")
    networks = ModelPair(f"{NETS}:resnet(depth=14)", student, teacher_checkpoint=weights, student_checkpoint=given)
    return RunConfig(networks, str(place / "photos"), None, PreprocessOptions(), how)


def prepared(
    place: Path,
    how: TrainOptions,
    student: str = OWN,
    checkpoint: Path | str | None = None,
    listen: Listener = lambda event: None,
) -> PreparedRun:
    return prepare_run(run_config(place, how, student, checkpoint), None, listen)
