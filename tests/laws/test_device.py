"""Law 9: nothing depends on the device. A run on a simulated CUDA device mixes no devices, and no step waits for it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from graftcli.graft.backend.batchnorm import training_mode
from graftcli.graft.backend.precision import Precision
from graftcli.graft.data.teacher_cache import Place, TeacherCache
from graftcli.graft.data.views import Views
from graftcli.graft.layerwise.one_layer import LayerInputs, LayerTrainer
from graftcli.graft.settings import EngineSettings
from graftcli.graft.surgery.seams import seams
from graftcli.graft.training.loop import run_loop
from graftcli.graft.training.pieces import pieces
from graftcli.graft.training.tasks import Task, tasks
from graftcli.graft.training.trainer import BlockTrainer, TrainContext
from graftcli.models.cuts import plan as plans
from graftcli.models.cuts.plan import Plan
from graftcli.recipe.file import load as load_recipe
from graftcli.store.cache_files import Cache
from graftcli.students.make import student_maker
from tests.engine import PREPROCESS, Memory, MemoryUnit, context, images, made_plan, network, plan, recipe, trained
from tests.layer_pairs import layer, seen
from tests.nets import randomise, resnet
from tests.simulated_cuda import CUDA, MixedDevices, simulated_cuda

PRUNED = ("fskd", "cross", "grail")
RECIPES = ("graft", "netgraft", "kd", "fitnet", "fskd", "cross", "mir", "practise", "grail")
AUGMENT = load_recipe("graft").views.augment


def pair(recipe: str) -> Plan:
    """A student that the recipe is for: pruned, with dropped units, or any other."""
    if recipe == "practise":
        torch.manual_seed(0)
        teacher = network(randomise(resnet(depth=14), seed=1), "big")
        student = student_maker()("drop:layer2.1", teacher)
        assert student is not None
        return plans.make(teacher, student)
    return made_plan("prune:l1=0.4") if recipe in PRUNED else plan()


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_the_same_on_another_device(name: str, tmp_path: Path) -> None:
    shortened = load_recipe(name, (), 0.002 if name == "graft" else 0.01)
    on_cpu = trained(pair(name), Memory(tmp_path / "cpu"), shortened, count=24)
    with simulated_cuda():
        settings = EngineSettings(precision=Precision(CUDA), device_memory=2**24)
        on_cuda = trained(pair(name), Memory(tmp_path / "cuda"), shortened, settings, count=24)
    for task, verdict in on_cpu.verdicts.items():
        other = on_cuda.verdicts[task]
        assert other.after.kl == pytest.approx(verdict.after.kl, rel=1e-2, abs=5e-5)
        assert verdict.after.loss is None or other.after.loss == pytest.approx(verdict.after.loss, rel=1e-2)
    if name in ("graft", "cross"):  # rounding decides which share of a change is kept where the scores are equal
        return
    for key, value in on_cpu.merged.module.state_dict().items():
        torch.testing.assert_close(on_cuda.merged.module.state_dict()[key], value, rtol=1e-3, atol=1e-4)


def test_the_simulated_device_notices_mixed_devices_and_waiting() -> None:
    with simulated_cuda() as device:
        numbers = torch.ones(2, 3).to(CUDA)
        with pytest.raises(MixedDevices):
            numbers + torch.ones(2, 3)
        device.waits.clear()
        assert float(numbers.sum()) == 6
        _ = numbers[numbers > 0]
        numbers.cpu()
        assert device.waits == ["aten._local_scalar_dense.default", "aten.index.Tensor", "aten._to_copy.default"]


def trainer(changes: dict[str, Any], place: Place, folder: Path, steps: int = 100) -> BlockTrainer:
    stage = {"name": "s", "train": "student", "targets": [{"at": "features", "loss": "mse"}], "lr": 1e-3, "batch": 4}
    made, precision = plan(), Precision(CUDA)
    both = pieces(made, seams(made))
    for piece in (*both.teacher, *both.student):
        piece.to(CUDA)
    wanted = recipe(stages=[{**stage, "steps": steps, **changes}])
    task = tasks(wanted, 3, (1, 2, 3))[-1]
    views = Views(images().pixels.to(CUDA), PREPROCESS, AUGMENT, 4, 0, device=CUDA)
    places = dict.fromkeys(range(1, 5), place)
    cache = TeacherCache(views, both.teacher, both.shapes, places, cache=Cache(folder), chunk=16, precision=precision)
    cache.fill(set(places), lambda *_: None)
    return BlockTrainer(task, TrainContext(both, cache, 12, 0, precision), MemoryUnit())


STEPS: dict[str, dict[str, Any]] = {
    "muon": {"optimizer": "muon", "ema": 0.99, "clip": 1.0},
    "adam": {"optimizer": "adam", "batchnorm": "train"},
    "adamw": {"optimizer": "adamw", "targets": [{"at": "logits", "loss": "kl", "temperature": 2}]},
    "sgd": {"optimizer": "sgd", "momentum": 0.9, "targets": [{"at": "logits", "loss": "norm-l2"}]},
    "student": {"train": "blocks", "input": "student", "targets": [{"at": "output", "loss": "mse"}]},
    "mix": {"train": "blocks", "input": "mix", "mu": 0.5, "targets": [{"at": "output", "loss": "mse"}]},
}

ONE_BLOCK: dict[str, Any] = {"train": "blocks", "optimizer": "sgd", "targets": [{"at": "output", "loss": "mse"}]}


@pytest.mark.parametrize("place", ["device", "memory", "recompute"])
@pytest.mark.parametrize("kind", STEPS)
def test_no_step_waits_for_the_device(kind: str, place: Place, tmp_path: Path) -> None:
    with simulated_cuda() as device:
        made = trainer(STEPS[kind], place, tmp_path)
        with training_mode(made.task.stage, made.trainable):
            for _ in range(3):
                device.waits.clear()  # what the first step creates is created once
                made.step(made.compute_loss())
        assert device.waits == []


def layer_trainer(folder: Path) -> LayerTrainer:
    stage = {"name": "s", "train": "layers", "input": "mix", "mu": 0.6, "targets": [{"at": "output", "loss": "mse"}]}
    wanted = recipe(stages=[{**stage, "steps": 100, "batch": 4, "lr": 1e-3}]).stages[0]
    pair, inputs = layer(), seen()
    for module in (pair.modules, pair.teacher):
        module.to(CUDA)
    sent = LayerInputs([value.to(CUDA) for value in inputs.student], [value.to(CUDA) for value in inputs.teacher])
    on_cuda = replace(context(folder), precision=Precision(CUDA))
    return LayerTrainer(Task("layer-1", wanted, 0, (1,)), pair, sent, on_cuda, MemoryUnit())


def test_no_step_of_a_layer_waits_for_the_device(tmp_path: Path) -> None:
    with simulated_cuda() as device:
        made = layer_trainer(tmp_path)
        for _ in range(3):
            device.waits.clear()
            made.step(made.compute_loss())
        assert device.waits == []


def test_the_loop_waits_as_often_in_a_long_task_as_in_a_short_one(tmp_path: Path) -> None:
    counts = []
    with simulated_cuda() as device:
        for steps in (60, 120):
            made = trainer(ONE_BLOCK, "device", tmp_path / str(steps), steps)
            device.waits.clear()
            run_loop(made, lambda _: None)
            counts.append(len(device.waits))
    assert counts[0] == counts[1]
