"""Student blocks that are not trained: those that equal the teacher's, and those that a recipe names."""

from collections import Counter
from collections.abc import Collection, Sequence
from itertools import chain

import torch

from graftcli.errors import UsageError
from graftcli.models.cuts.plan import Plan
from graftcli.models.derivation import is_derived
from graftcli.recipe import Recipe
from graftcli.recipe.freezing import named_blocks


def frozen_blocks(recipe: Recipe, plan: Plan) -> tuple[int, ...]:
    """Return the blocks that the recipe's `freeze` excludes from training and that equal the teacher's.

    Blocks with adapters, or with a tensor that another block uses too, are never included. Raises UsageError
    if `freeze` names a block that the plan does not have, or one that shares a tensor with another.
    """
    named = named_blocks(recipe.freeze)
    _check_named(recipe, plan, named)
    if "none" in recipe.freeze or recipe.adapters.where == "always":
        return ()
    inherits_all = recipe.init in ("inherit", "least-squares") and not is_derived(plan.student.network)
    by_shape = "same-shape" in recipe.freeze or inherits_all
    has_rule = len(named) < len(recipe.freeze)
    frozen = [block for block in plan.blocks if has_rule or block.index in named]
    same = (block.index for block in frozen if block.same == "weights" or (block.same is not None and by_shape))
    sharing = _sharing_blocks(plan)
    return tuple(block for block in same if block not in sharing)


def _check_named(recipe: Recipe, plan: Plan, named: Sequence[int]) -> None:
    count, freeze = len(plan.blocks), f"recipe {recipe.name} has `freeze: [{', '.join(map(str, recipe.freeze))}]`"
    if unknown := [block for block in named if block > count]:
        found = f"{freeze} and names block {', '.join(map(str, unknown))}; these networks have 1 to {count}."
        raise UsageError(found, "`graftcli plan` shows them.")
    if sharing := [block for block in named if block in _sharing_blocks(plan)]:
        found = f"{freeze}, and block {', '.join(map(str, sharing))} of the student shares a tensor with another block."
        raise UsageError(found, "Freeze other blocks: training the other block would change this one.")


def _sharing_blocks(plan: Plan) -> set[int]:
    """Return the blocks with a tensor that another block has too."""
    uses = Counter(chain.from_iterable(_tensors(plan, block.index) for block in plan.blocks))
    return {block.index for block in plan.blocks if any(uses[tensor] > 1 for tensor in _tensors(plan, block.index))}


def _tensors(plan: Plan, block: int) -> set[int]:
    """Return the ids of the tensors of a student block."""
    module = plan.student.blocks[block - 1]
    return {id(tensor) for tensor in (*module.parameters(), *module.buffers())}


@torch.no_grad()
def copy_blocks(plan: Plan, blocks: Collection[int]) -> None:
    """Copy the teacher's weights into these blocks of the student."""
    for block in blocks:
        plan.student.blocks[block - 1].load_state_dict(plan.teacher.blocks[block - 1].state_dict())
