"""A stage of a recipe -> tasks: which blocks are trained together, on what input, towards which targets.

Both networks stand here in L + 1 pieces: blocks 1 to L, the last one up to its last feature map, then the head. Value k
is what piece k hands on; value 0 is the view.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, fx, nn

from graftcli.errors import UsageError
from graftcli.graft.backend.frozen import frozen
from graftcli.graft.surgery.seams import Adapter, Relayout, Seam, scion
from graftcli.graft.training.losses import distance
from graftcli.models.cuts.automatic_cuts import Position, before_head, positions
from graftcli.models.cuts.plan import Plan, Side
from graftcli.models.tracing.split import split
from graftcli.recipe import Recipe, Stage, Target, nth


@dataclass(frozen=True)
class Task:
    """One unit of one stage: `blocks` of the student are trained together inside the teacher."""

    name: str  # "graft-3"
    stage: Stage
    unit: int  # which unit of its stage, from 0
    blocks: tuple[int, ...]
    before: tuple[int, ...] = ()  # the student's blocks that stand before them, where their features are its input

    @property
    def first(self) -> int:
        return self.blocks[0]

    @property
    def last(self) -> int:
        return self.blocks[-1]

    def steps(self, images: int) -> int:
        """How many steps there are, where an epoch is one view of each image."""
        if self.stage.steps is not None:
            return nth(self.stage.steps, self.unit)
        assert self.stage.epochs is not None  # a recipe gives one of the two
        return nth(self.stage.epochs, self.unit) * max(1, -(-images // self.batch(images)))

    def batch(self, images: int) -> int:
        """The recipe's batch, or fewer where one look at each image is less and an epoch is what counts."""
        return self.stage.batch if self.stage.steps is not None else min(self.stage.batch, images)


def tasks(recipe: Recipe, blocks: int, chosen: Collection[int], frozen: Collection[int] = ()) -> list[Task]:
    """Everything that is to be trained, in order. Where only some blocks are `chosen`, neighbours among them are
    connected, and the whole is finished, without the others. `frozen` blocks equal the teacher's and are never trained.
    """
    found: list[Task] = []
    for stage in recipe.stages:
        grows = stage.train == "growing"
        whole = _connections(sorted(chosen)) if grows else stage.units(blocks)
        units = [tuple(b for b in unit if b in chosen and b not in frozen) for unit in whole]
        found += [
            Task(_name(stage, unit), stage, i, unit, _before(stage, unit, chosen))
            for i, unit in enumerate(units)
            if len(unit) > grows and unit not in units[:i]
        ]
    return found


def joined(of_stage: Sequence[Task]) -> Task | None:
    """The tasks of a stage as one, where they train blocks apart from each other; else None."""
    first = of_stage[0]
    if len(of_stage) == 1 or first.stage.train == "growing":
        return None
    return Task(first.stage.name, first.stage, 0, tuple(block for task in of_stage for block in task.blocks))


def check_tasks(recipe: Recipe, blocks: int, chosen: Collection[int], frozen: Collection[int] = ()) -> None:
    """A recipe has something to train in the blocks that are chosen."""
    if all(block in frozen for block in chosen):
        asked, verb = ", ".join(map(str, sorted(chosen))), "are" if len(chosen) > 1 else "is"
        raise UsageError(
            f"{'blocks' if len(chosen) > 1 else 'block'} {asked} {verb} to be replaced, and {verb} the same as the"
            " teacher: there is nothing to train.",
            "Choose a smaller student, or other blocks; --set freeze=none trains these too.",
        )
    if not tasks(recipe, blocks, chosen, frozen):
        asked, verb = ", ".join(map(str, sorted(chosen))), "are" if len(chosen) > 1 else "is"
        raise UsageError(
            f"recipe {recipe.name} connects neighbouring blocks, and of {blocks} only {asked} {verb} to be replaced.",
            "Choose neighbours, as --blocks 1-2, or a recipe that trains each block alone or the whole: graft, kd.",
        )


def _before(stage: Stage, unit: Sequence[int], chosen: Collection[int]) -> tuple[int, ...]:
    return () if stage.input == "teacher" else tuple(sorted(block for block in chosen if block < unit[0]))


def _name(stage: Stage, unit: Sequence[int]) -> str:
    return f"{stage.name}-{'-'.join(map(str, unit))}"


def _connections(chosen: Sequence[int]) -> list[tuple[int, ...]]:
    """Each run of neighbours, growing by one block at a time: 2, 3, 4 -> (2, 3), (2, 3, 4)."""
    runs = [[b for _, b in run] for _, run in groupby(enumerate(chosen), key=lambda pair: pair[1] - pair[0])]
    return [tuple(run[: k + 1]) for run in runs for k in range(1, len(run))]


# -- both networks in pieces --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pieces:
    """`teacher` is a frozen copy; `student` are the scions over the student's own modules."""

    teacher: tuple[nn.Module, ...]
    student: tuple[nn.Module, ...]
    shapes: tuple[tuple[int, ...], ...]  # of the teacher's values 1 to L + 1
    last_maps: tuple[Position, Position] | None  # the teacher's and the student's, where both have one of one size
    regressor: nn.Module  # the student's last maps -> the teacher's; serves training alone

    @property
    def blocks(self) -> int:
        return len(self.teacher) - 1

    @property
    def has_maps(self) -> bool:
        return self.last_maps is not None


def pieces(plan: Plan, seams: Sequence[Seam]) -> Pieces:
    last_maps = _last_maps(plan)
    ours, theirs = last_maps or (None, None)
    teacher, student = _cut(plan.teacher, ours), _cut(plan.student, theirs)
    scions: list[nn.Module] = [scion(plan, seams, k) for k in range(1, len(plan.blocks))]
    last = student[-2] if theirs else student[-1]
    scions += [nn.Sequential(seams[-1].to_student, last), student[-1] if theirs else nn.Identity()]
    shapes = [tuple(cut.shape) for cut in plan.teacher.cuts]
    scores = plan.blocks[-1].teacher.outputs
    shapes += [tuple(ours.shape) if ours else scores, scores]
    whole = [frozen(piece) for piece in teacher]
    return Pieces(
        teacher=(*whole, *([] if ours else [nn.Identity()])),
        student=tuple(scions),
        shapes=tuple(shapes),
        last_maps=last_maps,
        regressor=_way_back(*last_maps) if last_maps else nn.Identity(),
    )


def _last_maps(plan: Plan) -> tuple[Position, Position] | None:
    """The last places before maps are pooled away where both networks have maps of one size, if they do behind the last
    cut; maps of classes, as SqueezeNet ends with, only where there are none before them."""
    both = [_map_places(side) for side in (plan.teacher, plan.student)]
    of_features = [[p for p in places if not _is_of_classes(p, plan)] for places in both]
    pairs = [(ours[-1], theirs[-1]) for ours, theirs in (of_features, both) if ours and theirs]
    return next((pair for pair in pairs if _form(pair[0]) == _form(pair[1])), None)


def _map_places(side: Side) -> list[Position]:
    return [p for p in before_head(side.traced, positions(side.traced)) if p.index > side.cuts[-1].index]


def _is_of_classes(place: Position, plan: Plan) -> bool:
    """Whether its channels are the classes: there are as many, and behind it nothing has weights."""
    behind = place.traced.nodes[place.index :]
    return place.channels == plan.teacher.network.num_classes and not any(map(place.traced.macs.get, behind))


def _form(place: Position) -> tuple[tuple[int, int], int]:
    return place.size, place.prefix


def _way_back(ours: Position, theirs: Position) -> nn.Module:
    """From the student's last maps to the teacher's, where they differ."""
    if theirs.channels != ours.channels:
        return Adapter(theirs.channels, ours.channels, theirs.layout, ours.layout, theirs.size)
    return nn.Identity() if theirs.layout == ours.layout else Relayout(theirs.layout, ours.layout, theirs.size)


def _cut(side: Side, maps: Position | None) -> list[fx.GraphModule]:
    return split(side.traced, [*side.cuts, *([maps] if maps is not None else [])])


# -- what one task computes ---------------------------------------------------------------------------------------


class Grafted(nn.Module):
    """Blocks of the student with what of the teacher stands between and behind them."""

    def __init__(self, pieces: Pieces, blocks: Sequence[int]) -> None:
        super().__init__()
        self.first, self.blocks = blocks[0], pieces.blocks
        self.whole = blocks[-1] == pieces.blocks
        in_student = {*blocks, *([pieces.blocks + 1] if self.whole else [])}
        chain = [
            (pieces.student if k in in_student else pieces.teacher)[k - 1] for k in range(self.first, pieces.blocks + 2)
        ]
        self.chain = nn.ModuleList(chain)
        self.regressor = pieces.regressor

    def forward(self, x: Tensor, values: Collection[int]) -> dict[int, Tensor]:
        """The wanted values, out of value `first` - 1."""
        found = {}
        for k, piece in enumerate(self.chain, self.first):
            if k > max(values):
                break
            x = piece(x)
            if k in values:
                found[k] = self.regressor(x) if self.whole and k == self.blocks else x
        return found


def values_of(target: Target, task: Task, pieces: Pieces) -> tuple[int, ...]:
    """Which values a target is met at: none for the head of a unit that has none; where there are no last maps, the
    logits stand for them."""
    scores = pieces.blocks + 1
    if target.at in ("logits", "head"):
        return (scores,) if target.at == "logits" or task.last == pieces.blocks else ()
    ends = {"output": task.blocks[-1:], "outputs": task.blocks, "features": (pieces.blocks,)}[target.at]
    return tuple(scores if end == pieces.blocks and not pieces.has_maps else end for end in ends)


def wanted(task: Task, pieces: Pieces, *, with_input: bool = True) -> set[int]:
    """The teacher's values that a task reads: its targets and, where they are no views, its inputs."""
    inputs = {task.before[0] - 1} if task.before else set()
    if task.stage.input != "student" or not task.before:
        inputs.add(task.first - 1)
    # a layer's target lies between two cuts: it is computed when it is its turn
    ends = () if task.stage.train == "layers" else task.stage.targets
    targets = {value for target in ends for value in values_of(target, task, pieces)}
    return (inputs - {0} if with_input else set()) | targets


def loss(task: Task, pieces: Pieces, given: dict[int, Tensor], answer: dict[int, Tensor]) -> Tensor:
    """The targets' distances with their weights; of several values of one target, the average."""
    total = torch.zeros((), device=next(iter(given.values())).device)
    for target in task.stage.targets:
        values = values_of(target, task, pieces)
        for value in values:
            total = total + target.weight / len(values) * distance(target, given[value].float(), answer[value])
    return total


def moving_modules(task: Task, pieces: Pieces) -> Iterator[nn.Module]:
    """The modules whose parameters a task trains."""
    for block in task.blocks:
        yield pieces.student[block - 1]
    if task.last == pieces.blocks:
        yield pieces.student[pieces.blocks]
        yield pieces.regressor
