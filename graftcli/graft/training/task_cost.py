"""What training costs, in multiply-adds of the teacher's forward pass."""

from graftcli.graft.training.tasks import Task
from graftcli.models.cuts.plan import Plan

# A step in passes forwards. What is not trained: forwards and back. What is trained: three, and about one more for what
# has no multiply-adds, as BatchNorms and the optimiser.
_BETWEEN, _TRAINED = 2, 4


def looks_worth(task: Task, plan: Plan) -> float:
    """The cost of one training view of the task, in forward passes of the whole teacher."""
    teacher, student = [block.teacher.macs for block in plan.blocks], [block.student.macs for block in plan.blocks]
    to_the_end = any(target.at in ("features", "logits") for target in task.stage.targets)
    way = range(task.first, (len(teacher) if to_the_end else task.last) + 1)
    between = sum(teacher[block - 1] for block in way if block not in task.blocks)
    before, trained = (sum(student[block - 1] for block in blocks) for blocks in (task.before, task.blocks))
    return (before + _TRAINED * trained + _BETWEEN * between) / sum(teacher)
