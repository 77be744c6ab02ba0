"""The demo itself: the student grafted, the same student by plain KD from random weights, both scored, one exported."""

from dataclasses import dataclass
from pathlib import Path

import torch

from graftcli.api.asked import Asked, How, Networks
from graftcli.api.loading import load
from graftcli.api.result import Result
from graftcli.api.running import distill
from graftcli.api.scoring import Look, fit_for
from graftcli.demo import STUDENT, TEACHER, TEACHER_WEIGHTS, held_out, images, write_held_out, write_images
from graftcli.events import Listener
from graftcli.export.form import Form, Subject, about
from graftcli.export.write import write
from graftcli.measure import Accuracy, accuracy, logits
from graftcli.nets.plan import count_parameters
from graftcli.nets.spec import build

# the steps of both are the same in all; what the recipes ship with is for larger networks
_GRAFT = ("views.count=60", "views.synthetic=null", "stages.graft.steps=150", "stages.finish.steps=700")
_KD = ("views.count=60", "stages.finish.steps=1150", "stages.finish.epochs=null")


@dataclass(frozen=True)
class Line:
    name: str
    parameters: int
    accuracy: Accuracy
    seconds: float | None  # of training


@dataclass(frozen=True)
class Shown:
    lines: tuple[Line, ...]  # teacher, grafted student, plain KD
    folder: str
    files: tuple[str, ...]


def show(folder: Path, listen: Listener) -> Shown:
    """Everything lies under `folder`: the images, both runs, the student as ONNX."""
    few, scored = folder / "images", folder / "held-out"
    write_images(few)
    write_held_out(scored)
    grafted = _distilled(few, "graft", _GRAFT, folder / "grafted", listen)
    plainly = _distilled(few, "kd", _KD, folder / "kd", listen)
    teacher = build(TEACHER, checkpoint=TEACHER_WEIGHTS)
    fit = fit_for(teacher, Look())
    pixels, labels = held_out()

    def line(name: str, module: torch.nn.Module, run: Result | None) -> Line:
        answers = logits(module, pixels, fit, torch.device("cpu"))
        return Line(name, count_parameters(module), accuracy(answers, labels), run.seconds if run else None)

    student, other = (load(folder / name) for name in ("grafted", "kd"))
    facts = about("teacher", "student")
    write(Subject(student, fit, images(), facts=facts), Form(), folder / "student.onnx")
    lines = (
        line("teacher", teacher.module, None),
        line("student, grafted", student, grafted),
        line("student, plain KD", other, plainly),
    )
    files = (folder / "student.onnx", folder / "grafted" / "model.safetensors", few, scored)
    return Shown(lines, str(folder), tuple(map(str, files)))


def _distilled(few: Path, recipe: str, overrides: tuple[str, ...], out: Path, listen: Listener) -> Result:
    networks = Networks(TEACHER, STUDENT, teacher_checkpoint=str(TEACHER_WEIGHTS))
    asked = Asked(networks, str(few), how=How(recipe, overrides, device="cpu"))
    return distill(asked, out=out, overwrite=True, command="graftcli demo", listen=listen)
