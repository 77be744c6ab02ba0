"""Tasks of a recipe: which blocks are trained together, on which inputs and targets. `pieces.py` numbers the values."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn

from graftcli.errors import UsageError
from graftcli.graft.training.pieces import Pieces
from graftcli.losses import LOSSES
from graftcli.recipe import Recipe, Stage, Target, nth
from graftcli.recipe.freezing import named_blocks


@dataclass(frozen=True)
class Task:
    """One unit of one stage: `blocks` of the student run inside the teacher, and those not `fixed` are trained."""

    name: str  # "graft-3"
    stage: Stage
    unit: int  # index of the unit in its stage
    blocks: tuple[int, ...]
    before: tuple[int, ...] = ()  # student blocks that compute the input; (): the teacher computes it
    fixed: tuple[int, ...] = ()  # student blocks that keep their initial weights in all tasks

    @property
    def trained(self) -> tuple[int, ...]:
        """Those of the blocks that are trained."""
        return tuple(block for block in self.blocks if block not in self.fixed)

    @property
    def first(self) -> int:
        """The first of the blocks."""
        return self.blocks[0]

    @property
    def last(self) -> int:
        """The last of the blocks."""
        return self.blocks[-1]

    def steps(self, images: int) -> int:
        """Number of steps; an epoch has one view of each image."""
        if self.stage.steps is not None:
            return nth(self.stage.steps, self.unit)
        assert self.stage.epochs is not None  # a stage has steps or epochs
        return nth(self.stage.epochs, self.unit) * max(1, -(-images // self.batch(images)))

    def batch(self, images: int) -> int:
        """Batch size of the recipe; with epochs, at most the number of images."""
        return self.stage.batch if self.stage.steps is not None else min(self.stage.batch, images)


def tasks(recipe: Recipe, blocks: int, chosen: Collection[int], frozen: Collection[int] = ()) -> list[Task]:
    """Return the tasks of a recipe in order, for the `chosen` blocks only.

    `frozen` blocks equal those of the teacher and are in no task. Other blocks that the recipe freezes are part of the
    tasks that train neighbouring blocks.
    """
    fixed = fixed_blocks(recipe, chosen, frozen)
    scheduled: list[Task] = []
    for stage in recipe.stages:
        is_growing = stage.train == "growing"
        all_units = _growing_units(sorted(chosen)) if is_growing else stage.units(blocks)
        units = [tuple(b for b in unit if b in chosen and b not in frozen) for unit in all_units]
        scheduled += [
            Task(_name(stage, unit), stage, i, unit, _before(stage, unit, chosen), fixed)
            for i, unit in enumerate(units)
            if len(unit) > is_growing and unit not in units[:i] and not {*unit} <= {*fixed}
        ]
    return scheduled


def stages_of(scheduled: Sequence[Task]) -> Iterator[list[Task]]:
    """Yield the tasks of each stage, in order."""
    for _, stage_tasks in groupby(scheduled, key=lambda task: task.stage.name):
        yield list(stage_tasks)


def are_independent(stage_tasks: Sequence[Task]) -> bool:
    """Whether the tasks of a stage can be trained at the same time: none reads what another trains."""
    blocks = [block for task in stage_tasks for block in task.blocks]
    return len(stage_tasks) > 1 and len(blocks) == len(set(blocks)) and not any(task.before for task in stage_tasks)


def fixed_blocks(recipe: Recipe, chosen: Collection[int], frozen: Collection[int]) -> tuple[int, ...]:
    """Return the chosen blocks that the recipe names as frozen and that do not equal the teacher's."""
    return tuple(sorted(block for block in named_blocks(recipe.freeze) if block in chosen and block not in frozen))


def join_tasks(stage_tasks: Sequence[Task]) -> Task | None:
    """Return one task for all blocks of a stage that trains them separately; None for other stages."""
    first = stage_tasks[0]
    if len(stage_tasks) == 1 or first.stage.train == "growing":
        return None
    blocks = {*first.fixed, *(block for task in stage_tasks for block in task.blocks)}
    return Task(first.stage.name, first.stage, 0, tuple(sorted(blocks)), fixed=first.fixed)


def check_tasks(recipe: Recipe, blocks: int, chosen: Collection[int], frozen: Collection[int] = ()) -> None:
    """Raise unless the recipe trains at least one of the chosen blocks."""
    numbers = ", ".join(map(str, sorted(chosen)))
    if all(block in frozen for block in chosen):
        identical = f"blocks {numbers} are" if len(chosen) > 1 else f"block {numbers} is"
        raise UsageError(
            f"{identical} identical to the teacher's: there is nothing to train.",
            "Choose a smaller student or other blocks, or train them too with --set freeze=none.",
        )
    if {*chosen} <= {*frozen, *fixed_blocks(recipe, chosen, frozen)}:
        raise UsageError(
            f"recipe {recipe.name} freezes block{'s' * (len(chosen) > 1)} {numbers}: there is nothing to train.",
            "Choose other blocks, or train them too with --set freeze=same.",
        )
    if not tasks(recipe, blocks, chosen, frozen):
        raise UsageError(
            f"recipe {recipe.name} trains groups of neighbouring blocks, and --blocks selects {numbers} of {blocks}.",
            "Choose neighbours, such as --blocks 1-2, or a recipe for single blocks or the whole student: graft, kd.",
        )


def _before(stage: Stage, unit: Sequence[int], chosen: Collection[int]) -> tuple[int, ...]:
    return () if stage.input == "teacher" else tuple(sorted(block for block in chosen if block < unit[0]))


def _name(stage: Stage, unit: Sequence[int]) -> str:
    return f"{stage.name}-{'-'.join(map(str, unit))}"


def _growing_units(chosen: Sequence[int]) -> list[tuple[int, ...]]:
    """Return growing groups of neighbours: 2, 3, 4 -> (2, 3), (2, 3, 4)."""
    runs = [[b for _, b in run] for _, run in groupby(enumerate(chosen), key=lambda pair: pair[1] - pair[0])]
    return [tuple(run[: k + 1]) for run in runs for k in range(1, len(run))]


# -- values and loss of a task ---------------------------------------------------------------------------------------


def target_values(target: Target, task: Task, pieces: Pieces) -> tuple[int, ...]:
    """Return the values that a target compares; without last maps, the logits replace them.

    A target on the head has no values in a task that does not train the last block.
    """
    logits = pieces.blocks + 1
    if target.at in ("logits", "head"):
        return (logits,) if target.at == "logits" or task.last == pieces.blocks else ()
    ends = {"output": task.blocks[-1:], "outputs": task.blocks, "features": (pieces.blocks,)}[target.at]
    return tuple(logits if end == pieces.blocks and not pieces.has_maps else end for end in ends)


def teacher_values(task: Task, pieces: Pieces, *, with_input: bool = True) -> set[int]:
    """Return the teacher's values that a task reads: its targets, and its inputs unless they are views."""
    inputs = {task.before[0] - 1} if task.before else set()
    if task.stage.input != "student" or not task.before:
        inputs.add(task.first - 1)
    # targets of single layers lie between cuts and are computed when a layer is trained
    ends = () if task.stage.train == "layers" else task.stage.targets
    targets = {value for target in ends for value in target_values(target, task, pieces)}
    return (inputs - {0} if with_input else set()) | targets


def loss(
    task: Task,
    pieces: Pieces,
    student: dict[int, Tensor],
    teacher: dict[int, Tensor],
    average: Callable[[Tensor], Tensor] = lambda value: value,
) -> Tensor:
    """Return the weighted sum of the losses of all targets, each averaged over its values.

    `average` takes the mean over all processes that share the batch.
    """
    total = torch.zeros((), device=next(iter(student.values())).device)
    for target in task.stage.targets:
        values = target_values(target, task, pieces)
        for value in values:
            loss = LOSSES[target.loss].value(student[value].float(), teacher[value], target.temperature, average)
            total = total + target.weight / len(values) * loss
    return total


def trained_modules(task: Task, pieces: Pieces) -> Iterator[nn.Module]:
    """Yield the modules whose parameters a task trains."""
    for block in task.trained:
        yield pieces.student[block - 1]
    if task.last == pieces.blocks:
        if task.last not in task.fixed:
            yield pieces.student[pieces.blocks]
        yield pieces.regressor
