"""Blocks of the student that equal the teacher's: found, kept out of training, and the same at the end."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx, nn

from graftcli.errors import UsageError
from graftcli.graft.initialize.frozen_blocks import frozen_blocks
from graftcli.graft.settings import EngineSettings
from graftcli.graft.training.tasks import check_tasks, tasks
from graftcli.models.cuts import plan as plans
from graftcli.models.cuts.plan import Plan
from graftcli.models.cuts.same_blocks import sameness
from tests.engine import Memory, Stages, made_plan, network, recipe, trained
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
