"""Student blocks that keep the teacher's weights and are not trained."""

from collections import Counter
from collections.abc import Collection
from itertools import chain

import torch

from graftcli.models.cuts.plan import Plan
from graftcli.models.derivation import is_derived
from graftcli.recipe import Recipe


def frozen_blocks(recipe: Recipe, plan: Plan) -> tuple[int, ...]:
    """Return the blocks that the recipe's `freeze` excludes from training.

    A block with adapters, or with a tensor that it shares with another block, is never frozen.
    """
    if recipe.freeze == "none" or recipe.adapters.where == "always":
        return ()
    inherits_all = recipe.init in ("inherit", "least-squares") and not is_derived(plan.student.network)
    by_shape = recipe.freeze == "same-shape" or inherits_all
    same = (block.index for block in plan.blocks if block.same == "weights" or (block.same is not None and by_shape))
    uses = Counter(chain.from_iterable(_tensors(plan, block.index) for block in plan.blocks))
    return tuple(block for block in same if all(uses[tensor] == 1 for tensor in _tensors(plan, block)))


def _tensors(plan: Plan, block: int) -> set[int]:
    """Return the ids of the tensors of a student block."""
    module = plan.student.blocks[block - 1]
    return {id(tensor) for tensor in (*module.parameters(), *module.buffers())}


@torch.no_grad()
def copy_blocks(plan: Plan, blocks: Collection[int]) -> None:
    """Copy the teacher's weights into these blocks of the student."""
    for block in blocks:
        plan.student.blocks[block - 1].load_state_dict(plan.teacher.blocks[block - 1].state_dict())
