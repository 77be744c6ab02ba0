"""Blocks of the student that are the teacher's and stay so: they are not trained."""

from collections.abc import Collection

import torch

from graftcli.nets.derived import is_derived
from graftcli.nets.plan import Plan
from graftcli.recipe import Recipe


def frozen_blocks(recipe: Recipe, plan: Plan) -> tuple[int, ...]:
    """The blocks that the recipe keeps out of training, as `freeze` says; none that adapters stand beside."""
    if recipe.freeze == "none" or recipe.adapters.where == "always":
        return ()
    inherits = recipe.init in ("inherit", "least-squares") and not is_derived(plan.student.network)
    copied = recipe.freeze == "same-shape" or inherits
    return tuple(
        block.index for block in plan.blocks if block.same == "weights" or (block.same == "architecture" and copied)
    )


@torch.no_grad()
def copy_blocks(plan: Plan, blocks: Collection[int]) -> None:
    """Give these blocks of the student the teacher's weights."""
    for block in blocks:
        plan.student.blocks[block - 1].load_state_dict(plan.teacher.blocks[block - 1].state_dict())
