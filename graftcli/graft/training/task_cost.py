"""Estimates the cost of training in forward passes of the teacher."""

from graftcli.graft.training.tasks import Task
from graftcli.models.cuts.plan import Plan

# Cost of a training step in forward passes of a block. Blocks that are not trained run forward and backward. Trained
# blocks cost three passes, and about one more for what has no multiply-adds, such as BatchNorm and the optimiser.
_FROZEN, _TRAINED = 2, 4


def passes_per_view(task: Task, plan: Plan) -> float:
    """Return the cost of one training view of the task, in forward passes of the whole teacher."""
    teacher, student = [block.teacher.macs for block in plan.blocks], [block.student.macs for block in plan.blocks]
    reaches_end = any(target.at in ("features", "logits") for target in task.stage.targets)
    blocks_run = range(task.first, (len(teacher) if reaches_end else task.last) + 1)
    frozen = sum(teacher[block - 1] for block in blocks_run if block not in task.blocks)
    frozen += sum(student[block - 1] for block in task.blocks if block in task.fixed)
    before, trained = (sum(student[block - 1] for block in blocks) for blocks in (task.before, task.trained))
    return (before + _TRAINED * trained + _FROZEN * frozen) / sum(teacher)
