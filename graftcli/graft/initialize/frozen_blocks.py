"""Blocks of the student that are the teacher's and stay so: they are not trained."""

from collections import Counter
from collections.abc import Collection
from itertools import chain

import torch

from graftcli.models.cuts.plan import Plan
from graftcli.models.derivation import is_derived
from graftcli.recipe import Recipe


def frozen_blocks(recipe: Recipe, plan: Plan) -> tuple[int, ...]:
    """The blocks that the recipe keeps out of training, as `freeze` says.

    None is frozen that has adapters, or a tensor that another block has too.
    """
    if recipe.freeze == "none" or recipe.adapters.where == "always":
        return ()
    inherits = recipe.init in ("inherit", "least-squares") and not is_derived(plan.student.network)
    copied = recipe.freeze == "same-shape" or inherits
    same = (block.index for block in plan.blocks if block.same == "weights" or (block.same is not None and copied))
    holders = Counter(chain.from_iterable(_tensors(plan, block.index) for block in plan.blocks))
    return tuple(block for block in same if all(holders[tensor] == 1 for tensor in _tensors(plan, block)))


def _tensors(plan: Plan, block: int) -> set[int]:
    part = plan.student.blocks[block - 1]
    return {id(tensor) for tensor in (*part.parameters(), *part.buffers())}


@torch.no_grad()
def copy_blocks(plan: Plan, blocks: Collection[int]) -> None:
    """Give these blocks of the student the teacher's weights."""
    for block in blocks:
        plan.student.blocks[block - 1].load_state_dict(plan.teacher.blocks[block - 1].state_dict())
