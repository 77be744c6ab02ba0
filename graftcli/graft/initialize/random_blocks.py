"""Find student blocks that start from random weights, which training cannot make worse."""

from collections.abc import Collection

from graftcli.graft.initialize.inherit import inherited_weights
from graftcli.models.cuts.plan import Plan
from graftcli.models.derivation import is_derived
from graftcli.recipe import Recipe


def random_blocks(recipe: Recipe, plan: Plan, frozen: Collection[int]) -> frozenset[int]:
    """Return the blocks whose weights are mostly random: not inherited, not from a checkpoint and not frozen."""
    teacher, student = plan.teacher.network, plan.student.network
    starts_random = recipe.init == "random" or (is_derived(student) and student.weights.is_random)
    if recipe.init in ("pretrained", "checkpoint") or (is_derived(student) and not starts_random):
        return frozenset()
    inherited = set[int]() if starts_random else inherited_weights(teacher.module, student.module)
    return frozenset(k for k in range(1, len(plan.blocks) + 1) if k not in frozen and _is_random(plan, k, inherited))


def _is_random(plan: Plan, block: int, inherited: Collection[int]) -> bool:
    """Whether less than half of the weights of matrices and filters in a student block are inherited."""
    weights = [weight for weight in plan.student.blocks[block - 1].parameters() if weight.ndim > 1]
    known = sum(weight.numel() for weight in weights if id(weight) in inherited)
    return 2 * known < sum(weight.numel() for weight in weights)
