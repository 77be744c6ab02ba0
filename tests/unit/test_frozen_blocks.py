"""Blocks that are not trained: those that equal the teacher's, and those that a recipe names."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx, nn

from graftcli.errors import UsageError
from graftcli.graft.initialize.frozen_blocks import frozen_blocks
from graftcli.graft.settings import EngineSettings
from graftcli.graft.training.tasks import check_tasks, join_tasks, tasks
from graftcli.models.cuts import plan as plans
from graftcli.models.cuts.plan import Plan
from graftcli.models.cuts.same_blocks import sameness
from graftcli.recipe import Recipe
from tests.engine import Memory, Stages, made_plan, network, plan, recipe, trained
from tests.nets import randomise


def beside(depth: int, change: Callable[[nn.Module], None] = lambda _: None) -> Plan:
    """A teacher and a student of one kind with weights of their own; `change` alters the student."""
    torch.manual_seed(0)
    teacher, student = (randomise(Stages((8, 12, 16), depth), seed=seed) for seed in (1, 2))
    change(student)
    return plans.make(network(teacher, "big"), network(student, "small"))


def test_blocks_that_equal_the_teachers_are_found() -> None:
    narrowed = made_plan("teacher*(1,1,.5)")
    assert [block.same for block in narrowed.blocks] == ["weights", "weights", None]
    assert [block.same for block in beside(3).blocks] == ["architecture"] * 3
    assert [block.same for block in made_plan("teacher*0.5").blocks] == [None] * 3


def test_a_difference_that_no_description_shows_is_found() -> None:
    class Scaled(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor, self.layer = factor, nn.Conv2d(3, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.layer(x) * self.factor
            return found

    blocks = [Whole().traced(Scaled(factor)) for factor in (1.0, 1.0, 2.0)]
    assert sameness(blocks[0], blocks[1], (3, 5, 5)) == "architecture"
    assert sameness(blocks[0], blocks[2], (3, 5, 5)) is None


class Whole(fx.Tracer):
    """Keeps every module whole, as a block does with what cannot be traced."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def traced(self, module: nn.Module) -> fx.GraphModule:
        root = nn.Sequential(module)
        return fx.GraphModule(root, self.trace(root))


@pytest.mark.parametrize(
    ("changes", "of_made", "of_other"),
    [
        ({"init": "least-squares"}, (1, 2), (1, 2, 3)),
        ({"init": "inherit"}, (1, 2), (1, 2, 3)),
        ({"init": "random"}, (1, 2), ()),
        ({"init": "random", "freeze": "same-shape"}, (1, 2), (1, 2, 3)),
        ({"init": "inherit", "freeze": "none"}, (), ()),
        ({"init": "inherit", "adapters": {"where": "always"}}, (), ()),
        ({"init": "inherit", "freeze": [1]}, (1,), (1,)),
        ({"init": "inherit", "freeze": 3}, (), (3,)),
        ({"init": "random", "freeze": [1]}, (1,), ()),
        ({"init": "inherit", "freeze": ["same", 3]}, (1, 2), (1, 2, 3)),
        ({"init": "random", "freeze": ["same-shape", 3]}, (1, 2), (1, 2, 3)),
        ({"init": "inherit", "freeze": [1], "adapters": {"where": "always"}}, (), ()),
    ],
)
def test_a_recipe_says_which_blocks_are_frozen(
    changes: dict[str, Any], of_made: tuple[int, ...], of_other: tuple[int, ...]
) -> None:
    wanted = recipe(**changes)
    assert frozen_blocks(wanted, made_plan("teacher*(1,1,.5)")) == of_made
    assert frozen_blocks(wanted, beside(3)) == of_other


@pytest.mark.parametrize(
    ("frozen", "units"),
    [
        ((), [(1,), (2,), (3,), (1, 2), (1, 2, 3), (1, 2, 3)]),
        ((1,), [(2,), (3,), (2, 3), (2, 3)]),
        ((2,), [(1,), (3,), (1, 3), (1, 3)]),  # a frozen block between two others connects them
        ((1, 2), [(3,), (3,)]),
    ],
)
def test_frozen_blocks_are_in_no_task(frozen: tuple[int, ...], units: list[tuple[int, ...]]) -> None:
    assert [task.blocks for task in tasks(recipe(), 3, (1, 2, 3), frozen)] == units


@pytest.mark.parametrize(
    ("named", "frozen", "units"),
    [
        ([1], (), [(2,), (3,), (1, 2), (1, 2, 3), (1, 2, 3)]),
        ([3], (), [(1,), (2,), (1, 2), (1, 2, 3), (1, 2, 3)]),
        (["same", 2], (1,), [(3,), (2, 3), (2, 3)]),
        ([1, 2], (), [(3,), (1, 2, 3), (1, 2, 3)]),
        ([1, 2], (1, 2), [(3,), (3,)]),
    ],
)
def test_named_blocks_run_in_the_tasks_of_others_and_are_trained_in_none(
    named: list[Any], frozen: tuple[int, ...], units: list[tuple[int, ...]]
) -> None:
    found = tasks(recipe(freeze=named), 3, (1, 2, 3), frozen)
    fixed = {block for block in named if isinstance(block, int)} - {*frozen}
    assert [task.blocks for task in found] == units
    assert all(task.trained and not fixed & {*task.trained} for task in found)
    joint = join_tasks([task for task in found if task.stage.name == "graft"])
    assert joint is None or (fixed <= {*joint.blocks} and not fixed & {*joint.trained})


def test_a_stage_of_layers_trains_those_of_other_blocks() -> None:
    layers = {"name": "layers", "train": "layers", "targets": [{"at": "output", "loss": "mse"}], "steps": 1, "lr": 1.0}
    (task,) = tasks(recipe(freeze=[2], stages=[layers]), 3, (1, 2, 3))
    assert (task.blocks, task.trained) == ((1, 2, 3), (1, 3))


def test_freezing_every_chosen_block_leaves_nothing_to_train() -> None:
    with pytest.raises(UsageError, match="recipe tiny freezes blocks 1, 2: there is nothing to train") as refused:
        check_tasks(recipe(freeze=["same", 1]), 3, (1, 2), (2,))
    assert "--set freeze=same" in refused.value.fix
    check_tasks(recipe(freeze=[1]), 3, (1, 2))


def test_a_block_that_the_plan_does_not_have_is_refused() -> None:
    with pytest.raises(UsageError) as refused:
        frozen_blocks(recipe(freeze=["same", 2, 4, 9]), made_plan("teacher*0.5"))
    found = "recipe tiny has `freeze: [same, 2, 4, 9]` and names block 4, 9; these networks have 1 to 3."
    assert (refused.value.message, refused.value.fix) == (found, "`graftcli plan` shows them.")


def changed_blocks(made: Plan, untrained: Plan) -> set[int]:
    """The blocks of the student whose weights or statistics differ from those before training."""
    sides = (made.student.blocks, untrained.student.blocks)
    pairs = zip(*([block.state_dict().values() for block in side] for side in sides), strict=True)
    return {k for k, pair in enumerate(pairs, 1) if not all(map(torch.equal, *pair))}


@pytest.mark.parametrize("batchnorm", ["frozen", "train", "recalibrate"])
@pytest.mark.parametrize("named", [1, 2, 3])
def test_a_named_block_keeps_its_initial_weights(named: int, batchnorm: str, tmp_path: Path) -> None:
    """Whatever a stage does to BatchNorm; the other blocks are trained."""
    base = recipe(init="random", freeze=["same", named]).model_dump()
    stages = [{**stage, "batchnorm": batchnorm, "dropout": True} for stage in base["stages"]]
    made, untrained, store = plan(), plan(), Memory(tmp_path)
    trained(made, store, Recipe.model_validate({**base, "stages": stages}))
    assert changed_blocks(made, untrained) == {1, 2, 3} - {named}
    assert not any(parameter.grad is not None for parameter in made.student.blocks[named - 1].parameters())
    assert f"graft-{named}" not in store.units and "finish-1-2-3" in store.units


@pytest.mark.parametrize("named", [1, 2, 3])
def test_the_layers_of_a_named_block_are_not_fitted(named: int, tmp_path: Path) -> None:
    layers = {"name": "layers", "train": "layers", "targets": [{"at": "output", "loss": "mse"}], "steps": 2}
    made, untrained = made_plan("prune:l1=0.4"), made_plan("prune:l1=0.4")
    wanted = recipe(freeze=[named], stages=[{**layers, "optimizer": "least-squares"}])
    trained(made, Memory(tmp_path), wanted)
    assert changed_blocks(made, untrained) == {1, 2, 3} - {named}


def test_a_student_that_is_the_teacher_has_nothing_to_train() -> None:
    with pytest.raises(UsageError, match="blocks 1, 2 are identical to the teacher's"):
        check_tasks(recipe(), 3, (1, 2), (1, 2))
    check_tasks(recipe(), 3, (1, 2, 3), (1, 2))


@pytest.mark.parametrize("blocks", [None, (2, 3)])
@pytest.mark.parametrize("init", ["inherit", "least-squares"])
def test_frozen_blocks_end_with_the_teachers_weights(init: str, blocks: tuple[int, ...] | None, tmp_path: Path) -> None:
    made = made_plan("teacher*(1,1,.5)")
    trained(made, Memory(tmp_path), recipe(init=init), EngineSettings(blocks=blocks))
    for number, is_same in zip((0, 1, 2), (True, True, False), strict=True):
        held = [side.blocks[number].state_dict() for side in (made.teacher, made.student)]
        same = held[0].keys() == held[1].keys() and all(
            held[0][name].shape == held[1][name].shape and torch.equal(held[0][name], held[1][name]) for name in held[0]
        )
        assert same == is_same


def test_a_block_that_shares_a_tensor_with_another_is_trained() -> None:
    def tied(student: nn.Module) -> None:
        student.stages[2][1][0].weight = student.stages[2][2][0].weight  # type: ignore[index, union-attr]
        student.stages[1][1][1].bias = student.stages[0][1][1].bias  # type: ignore[index, union-attr]

    torch.manual_seed(0)
    made = plans.make(network(randomise(Stages((8, 8, 16), 3), seed=1), "big"), network(tied_of(tied), "small"))
    assert [block.same for block in made.blocks] == ["architecture"] * 3
    assert frozen_blocks(recipe(), made) == (3,)
    with pytest.raises(UsageError, match="block 1, 2 of the student shares a tensor with another block"):
        frozen_blocks(recipe(freeze=[1, 2, 3]), made)


def tied_of(change: Callable[[nn.Module], None]) -> nn.Module:
    made = randomise(Stages((8, 8, 16), 3), seed=2)
    change(made)
    return made


def test_a_block_of_the_teachers_shape_is_given_its_weights(tmp_path: Path) -> None:
    made = beside(3, halved_end)
    store = Memory(tmp_path)
    trained(made, store, recipe(init="random", freeze="same-shape"))
    assert {record["unit"] for record in store.records} == {"graft-3", "finish-3"}
    for name, tensor in made.teacher.blocks[0].state_dict().items():
        assert torch.equal(tensor, made.student.blocks[0].state_dict()[name])


def halved_end(student: nn.Module) -> None:
    """The last stage with one unit less."""
    del student.stages[2][-1]  # type: ignore[index, union-attr]
