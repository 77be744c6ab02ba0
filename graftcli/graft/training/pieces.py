"""Both networks split into L + 1 pieces: blocks 1 to L, and the head; block L ends at its last feature map.

Value k is the output of piece k; value 0 is the view.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import Tensor, fx, nn

from graftcli.graft.backend.frozen import frozen
from graftcli.graft.surgery.seams import Adapter, Relayout, Seam, scion
from graftcli.models.cuts.automatic_cuts import before_head
from graftcli.models.cuts.plan import Plan, Side
from graftcli.models.cuts.positions import Position, needs_adapter, positions
from graftcli.models.tracing.split import split


@dataclass(frozen=True)
class Pieces:
    """Both networks split into pieces: a frozen copy of the teacher, and scions that share the student's modules."""

    teacher: tuple[nn.Module, ...]
    student: tuple[nn.Module, ...]
    shapes: tuple[tuple[int, ...], ...]  # shapes of the teacher's values 1 to L + 1
    last_maps: tuple[Position, Position] | None  # of teacher and student, if they have equal sizes
    regressor: nn.Module  # student's last map -> teacher's last map; used in training only

    @property
    def blocks(self) -> int:
        """The number of blocks; the head belongs to the last block."""
        return len(self.teacher) - 1

    @property
    def has_maps(self) -> bool:
        """Whether both networks end with feature maps of equal size, before their heads."""
        return self.last_maps is not None


def pieces(plan: Plan, seams: Sequence[Seam]) -> Pieces:
    """Split both networks of a plan into pieces."""
    last_maps = _last_maps(plan)
    teacher_map, student_map = last_maps or (None, None)
    teacher, student = _cut(plan.teacher, teacher_map), _cut(plan.student, student_map)
    scions: list[nn.Module] = [scion(plan, seams, k) for k in range(1, len(plan.blocks))]
    last = student[-2] if student_map else student[-1]
    scions += [nn.Sequential(seams[-1].to_student, last), student[-1] if student_map else nn.Identity()]
    shapes = [tuple(cut.shape) for cut in plan.teacher.cuts]
    logits = plan.blocks[-1].teacher.outputs
    shapes += [tuple(teacher_map.shape) if teacher_map else logits, logits]
    frozen_teacher = [frozen(piece) for piece in teacher]
    return Pieces(
        teacher=(*frozen_teacher, *([] if teacher_map else [nn.Identity()])),
        student=tuple(scions),
        shapes=tuple(shapes),
        last_maps=last_maps,
        regressor=_regressor(*last_maps) if last_maps else nn.Identity(),
    )


def _last_maps(plan: Plan) -> tuple[Position, Position] | None:
    """Return the last feature maps of both networks after the last cut, or None if their sizes differ.

    Maps with one channel per class, as at the end of SqueezeNet, are used only if there are no others.
    """
    maps = [_map_positions(side) for side in (plan.teacher, plan.student)]
    feature_maps = [[p for p in side if not _is_class_map(p, plan)] for side in maps]
    pairs = [(teacher[-1], student[-1]) for teacher, student in (feature_maps, maps) if teacher and student]
    return next((pair for pair in pairs if _spatial_shape(pair[0]) == _spatial_shape(pair[1])), None)


def _map_positions(side: Side) -> list[Position]:
    return [p for p in before_head(side.traced, positions(side.traced)) if p.index > side.cuts[-1].index]


def _is_class_map(position: Position, plan: Plan) -> bool:
    """Whether the channels are classes: their number is equal, and no later layer has weights."""
    later_nodes = position.traced.nodes[position.index :]
    return position.channels == plan.teacher.network.num_classes and not any(map(position.traced.macs.get, later_nodes))


def _spatial_shape(position: Position) -> tuple[tuple[int, int], int]:
    return position.size, position.prefix


def _regressor(teacher: Position, student: Position) -> nn.Module:
    """Return the module that maps the student's last feature map to the teacher's channels and layout."""
    if needs_adapter(teacher, student):
        return Adapter(student.channels, teacher.channels, student.layout, teacher.layout, student.size)
    if student.layout == teacher.layout:
        return nn.Identity()
    return Relayout(student.layout, teacher.layout, student.size)


def _cut(side: Side, maps: Position | None) -> list[fx.GraphModule]:
    return split(side.traced, [*side.cuts, *([maps] if maps is not None else [])])


class Grafted(nn.Module):
    """The student's `blocks`, and the teacher's blocks between and after them."""

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
        """Compute the given values from `x`, which is value `first` - 1."""
        computed = {}
        for k, piece in enumerate(self.chain, self.first):
            if k > max(values):
                break
            x = piece(x)
            if k in values:
                computed[k] = self.regressor(x) if self.whole and k == self.blocks else x
        return computed
