"""Run the demo: train a student by grafting and one by plain KD, score both, and export the grafted one."""

from dataclasses import dataclass
from pathlib import Path

import torch

from graftcli.demo import STUDENT, TEACHER, TEACHER_WEIGHTS, held_out, images, write_held_out, write_images
from graftcli.events import Listener
from graftcli.formats.loading import load
from graftcli.formats.options import ExportOptions, ExportSource, source_facts
from graftcli.formats.write import write
from graftcli.measure import Accuracy, accuracy, compute_logits
from graftcli.models.cuts.plan import count_parameters
from graftcli.models.loading.build import build
from graftcli.runs.config import ModelPair, RunConfig, TrainOptions
from graftcli.runs.result import Result
from graftcli.runs.running import distill
from graftcli.runs.scoring import PreprocessOptions, preprocess_for

# both runs train for the same number of steps; the defaults of the recipes are for larger networks
GRAFT_OVERRIDES = ("views.count=60", "views.synthetic=null", "stages.graft.steps=150", "stages.finish.steps=700")
KD_OVERRIDES = ("views.count=60", "stages.finish.steps=1150", "stages.finish.epochs=null")


@dataclass(frozen=True)
class DemoLine:
    """One network of the demo, as a row of its table."""

    name: str
    parameters: int
    accuracy: Accuracy
    seconds: float | None  # training time


@dataclass(frozen=True)
class DemoResult:
    """The scores of the demo's networks, and the files that it wrote."""

    lines: tuple[DemoLine, ...]  # teacher, grafted student, plain KD
    folder: str
    files: tuple[str, ...]


def show(folder: Path, listen: Listener) -> DemoResult:
    """Run the demo and write everything into `folder`: the images, both runs, the student as ONNX."""
    few_shot, test = folder / "images", folder / "held-out"
    write_images(few_shot)
    write_held_out(test)
    grafted = _distill(few_shot, "graft", GRAFT_OVERRIDES, folder / "grafted", listen)
    distilled = _distill(few_shot, "kd", KD_OVERRIDES, folder / "kd", listen)
    teacher = build(TEACHER, checkpoint=TEACHER_WEIGHTS)
    preprocess = preprocess_for(teacher, PreprocessOptions())
    pixels, labels = held_out()

    def line(name: str, module: torch.nn.Module, run: Result | None) -> DemoLine:
        scores = accuracy(compute_logits(module, pixels, preprocess, torch.device("cpu")), labels)
        return DemoLine(name, count_parameters(module), scores, run.seconds if run else None)

    grafted_student, kd_student = (load(folder / name) for name in ("grafted", "kd"))
    source = ExportSource(grafted_student, preprocess, images(), facts=source_facts("teacher", "student"))
    write(source, ExportOptions(), folder / "student.onnx")
    lines = (
        line("teacher", teacher.module, None),
        line("student, grafted", grafted_student, grafted),
        line("student, plain KD", kd_student, distilled),
    )
    files = (folder / "student.onnx", folder / "grafted" / "model.safetensors", few_shot, test)
    return DemoResult(lines, str(folder), tuple(map(str, files)))


def _distill(images: Path, recipe: str, overrides: tuple[str, ...], out: Path, listen: Listener) -> Result:
    models = ModelPair(TEACHER, STUDENT, teacher_checkpoint=str(TEACHER_WEIGHTS))
    config = RunConfig(models, str(images), how=TrainOptions(recipe, overrides, device="cpu"))
    return distill(config, out=out, overwrite=True, command="graftcli demo", listen=listen)
