"""The training loop: a block's input, its targets, its precision, and losses that diverge."""

import copy
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from graftcli.events import Event, Warned
from graftcli.graft.backend.precision import Precision
from graftcli.graft.data.teacher_cache import TeacherCache
from graftcli.graft.data.views import Views
from graftcli.graft.settings import EngineSettings
from graftcli.graft.surgery.seams import seams
from graftcli.graft.training.loop import run_loop
from graftcli.graft.training.pieces import Pieces, pieces
from graftcli.graft.training.tasks import tasks
from graftcli.graft.training.trainer import BlockTrainer, TrainContext
from graftcli.losses import LOSSES, softened_kl
from graftcli.models.cuts import plan as plans
from graftcli.recipe import Recipe
from graftcli.recipe.values import Augment
from graftcli.store.cache_files import Cache
from tests.engine import PREPROCESS, Memory, MemoryUnit, Stages, images, network, plan, recipe, trained
from tests.nets import randomise


def on_blocks(**changes: object) -> Recipe:
    stage = {"name": "graft", "train": "blocks", "targets": [{"at": "output", "loss": "mse"}], "steps": 3, "lr": 1e-3}
    return recipe(stages=[{**stage, "batch": 4, **changes}])


def context(found: Pieces, folder: Path) -> TrainContext:
    views = Views(images().pixels, PREPROCESS, Augment(), 1, 0)
    answers = TeacherCache(
        views, found.teacher, found.shapes, {}, cache=Cache(folder), chunk=4, precision=Precision(torch.device("cpu"))
    )
    return TrainContext(found, answers, 12, 0, Precision(torch.device("cpu")))


@pytest.mark.parametrize("source", ["teacher", "student", "mix"])
def test_a_block_sees_the_features_that_its_stage_asks_for(source: str, tmp_path: Path) -> None:
    made = plan()
    joined = seams(made)
    found = pieces(made, joined)
    mu = {"mu": 0.7} if source == "mix" else {}
    task = tasks(on_blocks(input=source, **mu), 3, (1, 2, 3))[1]
    training = BlockTrainer(task, context(found, tmp_path), MemoryUnit())
    index = training.order.at(0)
    view = training.context.teacher_cache.views.normalised(index)

    teacher_maps = found.teacher[0](view)
    own = found.student[0](view)
    correction = LOSSES["mse"].value(found.student[1](teacher_maps), found.teacher[1](teacher_maps))
    imitation = LOSSES["mse"].value(found.student[1](own), found.teacher[1](own))
    towards = LOSSES["mse"].value(found.student[1](own), found.teacher[1](teacher_maps))
    expected = {"teacher": correction, "student": towards, "mix": 0.7 * correction + 0.3 * imitation}[source]
    assert training.compute_loss().item() == pytest.approx(expected.item(), rel=1e-4)


def test_a_blocks_own_input_gives_no_gradient_to_the_blocks_before_it(tmp_path: Path) -> None:
    made = plan()
    found = pieces(made, seams(made))
    task = tasks(on_blocks(input="student"), 3, (1, 2, 3))[1]
    training = BlockTrainer(task, context(found, tmp_path), MemoryUnit())
    training.compute_loss().backward()
    assert all(p.grad is None for p in found.student[0].parameters())
    assert all(p.grad is not None for p in made.student.blocks[1].parameters())


def test_the_whole_student_is_compared_at_every_cut(tmp_path: Path) -> None:
    made = plan()
    found = pieces(made, seams(made))
    whole = on_blocks(name="finish", train="student", targets=[{"at": "outputs", "loss": "mse", "weight": 3.0}])
    training = BlockTrainer(tasks(whole, 3, (1, 2, 3))[0], context(found, tmp_path), MemoryUnit())
    teacher_maps = student_maps = training.context.teacher_cache.views.normalised(training.order.at(0))
    expected = 0.0
    for k in range(3):
        teacher_maps, student_maps = found.teacher[k](teacher_maps), found.student[k](student_maps)
        expected += LOSSES["mse"].value(found.regressor(student_maps) if k == 2 else student_maps, teacher_maps).item()
    assert training.compute_loss().item() == pytest.approx(expected, rel=1e-4)


def test_only_the_last_block_is_compared_at_the_head(tmp_path: Path) -> None:
    made = plan()
    found = pieces(made, seams(made))
    targets = [{"at": "output", "loss": "mse"}, {"at": "head", "loss": "kl", "temperature": 1, "weight": 0.5}]
    first, _, last = tasks(on_blocks(targets=targets), 3, (1, 2, 3))
    assert BlockTrainer(first, context(found, tmp_path), MemoryUnit()).targets == {1}  # no step behind its block
    training = BlockTrainer(last, context(found, tmp_path), MemoryUnit())
    features = training.context.teacher_cache.at(2, training.order.at(0))
    maps, teacher_maps = found.student[2](features), found.teacher[2](features)
    expected = LOSSES["mse"].value(found.regressor(maps), teacher_maps)
    expected = expected + 0.5 * softened_kl(found.student[3](maps), found.teacher[3](teacher_maps), 1)
    assert training.compute_loss().item() == pytest.approx(expected.item(), rel=1e-4)
    training.compute_loss().backward()
    assert all(p.grad is not None for p in found.student[3].parameters())


@pytest.mark.parametrize("changes", [{"input": "student"}, {"input": "mix", "mu": 0.5}])
def test_runs_on_the_students_own_features_lower_the_loss_and_resume(changes: dict[str, Any], tmp_path: Path) -> None:
    store, wanted = Memory(tmp_path), on_blocks(**changes, steps=60)
    outcome = trained(plan(), store, wanted)
    again = Memory(tmp_path)
    again.units = {"graft-1": store.units["graft-1"]}
    resumed = trained(plan(), again, wanted)
    for name, tensor in outcome.merged.module.state_dict().items():
        assert torch.equal(tensor, resumed.merged.module.state_dict()[name]), name
    losses = [record["loss"] for record in store.records if record["unit"] == "graft-3"]
    assert losses[-1] < 0.9 * losses[0]


def test_a_block_with_zero_loss_at_the_start_has_not_diverged(tmp_path: Path) -> None:
    """Its loss rises from rounding to what a step of Adam is: that is many times as much, and nothing."""
    module = randomise(Stages((8, 12, 16), 2), seed=1)
    made = plans.make(network(module, "one"), network(copy.deepcopy(module), "same"))
    found = pieces(made, seams(made))
    task = tasks(on_blocks(steps=80), 3, (1, 2, 3))[0]
    events: list[Event] = []
    last = run_loop(BlockTrainer(task, context(found, tmp_path), MemoryUnit()), events.append)
    assert last < 1e-2
    assert not any(isinstance(event, Warned) for event in events)


def test_half_precision_trains_as_well(tmp_path: Path) -> None:
    ends = []
    for amp in (False, True):
        store = Memory(tmp_path)
        trained(plan(), store, on_blocks(steps=40), EngineSettings(precision=Precision(torch.device("cpu"), amp=amp)))
        ends.append(store.records[-2]["loss"])  # the last one is of the blocks joined
    assert ends[1] == pytest.approx(ends[0], rel=0.1) and ends[1] != ends[0]


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_run_trains_the_same(tmp_path: Path) -> None:
    modules: list[nn.Module] = []
    for compiled in (False, True):
        how = Precision(torch.device("cpu"), compile=compiled)
        modules.append(trained(plan(), Memory(tmp_path), on_blocks(), EngineSettings(precision=how)).merged.module)
    seen = torch.randn(4, 3, 16, 16)
    assert torch.allclose(modules[0](seen), modules[1](seen), rtol=1e-2, atol=1e-3)


def test_every_unit_is_compiled_however_many_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[fx.GraphModule] = []

    def backend(graph: fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    monkeypatch.setattr("torch._dynamo.config.recompile_limit", 1)  # it is 8, and there are recipes with more units
    how = Precision(torch.device("cpu"), compile=True)
    trained(plan(), Memory(tmp_path), on_blocks(), EngineSettings(precision=how))
    assert len(graphs) == 3


def test_recalibrated_statistics_are_those_of_the_head_too(tmp_path: Path) -> None:
    made = plan()
    for module in (made.teacher.network.module, made.student.network.module):
        assert isinstance(module, Stages)
        module.stages.append(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(16)))
    made = plans.make(made.teacher.network, made.student.network)
    whole = on_blocks(name="finish", train="student", targets=[{"at": "features", "loss": "mse"}])
    stage = whole.stages[0].model_copy(update={"batchnorm": "recalibrate"})
    found = pieces(made, seams(made))
    task = tasks(whole.model_copy(update={"stages": (stage,)}), 3, (1, 2, 3))[0]
    run_loop(BlockTrainer(task, context(found, tmp_path), MemoryUnit()), lambda _: None)
    norms = [m for m in made.student.network.module.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(norm.running_mean is not None and bool(norm.running_mean.any()) for norm in norms)


def test_the_loss_is_recorded_at_fixed_steps(tmp_path: Path) -> None:
    store = Memory(tmp_path)
    trained(plan(), store, on_blocks(steps=100))
    noted = [record["step"] for record in store.records if record["unit"] == "graft-1"]
    assert noted == [*range(2, 100, 2), 100]


@pytest.mark.parametrize("spoiled", [1, 10, 29])
def test_a_step_to_non_finite_weights_is_undone(spoiled: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last of 30 steps too, behind which no loss tells of it."""
    done: list[int] = []

    def step(training: BlockTrainer, error: Tensor) -> None:
        honest(training, error)
        done.append(training.train_state.step)
        if done.count(spoiled + 1) == 1 and training.train_state.step == spoiled + 1:
            next(training.trainable.parameters()).data.fill_(float("nan"))

    honest = BlockTrainer.step
    monkeypatch.setattr(BlockTrainer, "step", step)
    made, events = plan(), list[Event]()
    task = tasks(on_blocks(steps=30), 3, (1, 2, 3))[0]
    last = run_loop(BlockTrainer(task, context(pieces(made, seams(made)), tmp_path), MemoryUnit()), events.append)
    assert sum(isinstance(event, Warned) for event in events) == 1
    assert last < 10 and all(bool(p.isfinite().all()) for p in made.student.network.module.parameters())
