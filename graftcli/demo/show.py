"""The demo itself: the student grafted, the same student by plain KD from random weights, both scored, one exported."""

from dataclasses import dataclass
from pathlib import Path

import torch

from graftcli.demo import STUDENT, TEACHER, TEACHER_WEIGHTS, held_out, images, write_held_out, write_images
from graftcli.events import Listener
from graftcli.formats.options import ExportOptions, ExportSource, about
from graftcli.formats.write import write
from graftcli.measure import Accuracy, accuracy, logits
from graftcli.models.cuts.plan import count_parameters
from graftcli.models.loading.build import build
from graftcli.runs.config import ModelPair, RunConfig, TrainOptions
from graftcli.runs.loading import load
from graftcli.runs.result import Result
from graftcli.runs.running import distill
from graftcli.runs.scoring import PreprocessOptions, preprocess_for

# the steps of both are the same in all; what the recipes ship with is for larger networks
_GRAFT = ("views.count=60", "views.synthetic=null", "stages.graft.steps=150", "stages.finish.steps=700")
_KD = ("views.count=60", "stages.finish.steps=1150", "stages.finish.epochs=null")


@dataclass(frozen=True)
class DemoLine:
    name: str
    parameters: int
    accuracy: Accuracy
    seconds: float | None  # of training


@dataclass(frozen=True)
class DemoResult:
    lines: tuple[DemoLine, ...]  # teacher, grafted student, plain KD
    folder: str
    files: tuple[str, ...]


def show(folder: Path, listen: Listener) -> DemoResult:
    """Everything lies under `folder`: the images, both runs, the student as ONNX."""
    few, scored = folder / "images", folder / "held-out"
    write_images(few)
    write_held_out(scored)
    grafted = _distilled(few, "graft", _GRAFT, folder / "grafted", listen)
    plainly = _distilled(few, "kd", _KD, folder / "kd", listen)
    teacher = build(TEACHER, checkpoint=TEACHER_WEIGHTS)
    preprocess = preprocess_for(teacher, PreprocessOptions())
    pixels, labels = held_out()

    def line(name: str, module: torch.nn.Module, run: Result | None) -> DemoLine:
        answers = logits(module, pixels, preprocess, torch.device("cpu"))
        return DemoLine(name, count_parameters(module), accuracy(answers, labels), run.seconds if run else None)

    student, other = (load(folder / name) for name in ("grafted", "kd"))
    facts = about("teacher", "student")
    write(ExportSource(student, preprocess, images(), facts=facts), ExportOptions(), folder / "student.onnx")
    lines = (
        line("teacher", teacher.module, None),
        line("student, grafted", student, grafted),
        line("student, plain KD", other, plainly),
    )
    files = (folder / "student.onnx", folder / "grafted" / "model.safetensors", few, scored)
    return DemoResult(lines, str(folder), tuple(map(str, files)))


def _distilled(few: Path, recipe: str, overrides: tuple[str, ...], out: Path, listen: Listener) -> Result:
    networks = ModelPair(TEACHER, STUDENT, teacher_checkpoint=str(TEACHER_WEIGHTS))
    asked = RunConfig(networks, str(few), how=TrainOptions(recipe, overrides, device="cpu"))
    return distill(asked, out=out, overwrite=True, command="graftcli demo", listen=listen)
