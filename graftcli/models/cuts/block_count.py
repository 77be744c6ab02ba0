"""Choose pairs of cuts that give a requested number of blocks."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from graftcli.errors import PairError
from graftcli.models.cuts.automatic_cuts import equal_shares, macs_before
from graftcli.models.cuts.positions import Position, positions
from graftcli.models.tracing.trace import Traced

Pair = tuple[Position, Position]  # (teacher position, student position)


def with_count(teacher: Traced, student: Traced, pairs: list[Pair], count: int) -> list[Pair]:
    """Exactly `count` blocks: a subset of the pairs with nearly equal MACs, or extra cuts in the largest blocks."""
    if count - 1 <= len(pairs):
        candidates = equal_shares([p for p, _ in pairs], macs_before(teacher), 0, len(teacher.nodes), count)
        return [pair for pair in pairs if pair[0] in candidates]
    extended = with_extra_cuts(teacher, student, pairs, count)
    check_count(len(extended) + 1, count)
    return extended


def with_extra_cuts(teacher: Traced, student: Traced, pairs: Sequence[Pair], count: int) -> list[Pair]:
    """Add cuts inside the largest blocks, up to `count` blocks if enough positions exist."""
    extended = list(pairs)
    while len(extended) < count - 1:
        extra = next(_pairs_inside_blocks(teacher, student, extended), None)
        if extra is None:
            break
        extended = sorted([*extended, extra], key=lambda pair: pair[0].index)
    return extended


def _pairs_inside_blocks(teacher: Traced, student: Traced, pairs: Sequence[Pair]) -> Iterator[Pair]:
    """Pairs of equal size inside the blocks, starting with the middle of the teacher's largest block."""
    teacher_work, student_work = macs_before(teacher), macs_before(student)
    bounds = [(0, 0), *((a.index, b.index) for a, b in pairs), (len(teacher.nodes), len(student.nodes))]
    ranges = sorted(pairwise(bounds), key=lambda r: teacher_work[r[0][0]] - teacher_work[r[1][0]])
    for (teacher_start, student_start), (teacher_stop, student_stop) in ranges:
        teacher_candidates = _inside(positions(teacher), teacher_work, teacher_start, teacher_stop)
        student_candidates = _inside(positions(student), student_work, student_start, student_stop)
        sizes = {p.size for p in teacher_candidates} & {p.size for p in student_candidates}
        teacher_cut = equal_shares(
            [p for p in teacher_candidates if p.size in sizes], teacher_work, teacher_start, teacher_stop, 2
        )
        student_cut = equal_shares(
            [p for p in student_candidates if teacher_cut and p.size == teacher_cut[0].size],
            student_work,
            student_start,
            student_stop,
            2,
        )
        if teacher_cut and student_cut:
            yield teacher_cut[0], student_cut[0]


def _inside(candidates: Sequence[Position], work: Sequence[int], start: int, stop: int) -> list[Position]:
    """The positions between two nodes with MACs on both sides."""
    return [p for p in candidates if work[start] < work[p.index] < work[stop]]


def check_count(possible: int, count: int) -> None:
    """Raise if the networks cannot be cut into exactly `count` blocks."""
    if possible != count:
        raise PairError(
            f"--blocks-count is {count}; these two networks can be cut into at most {possible} blocks.",
            f"Give --blocks-count {possible} or less, or choose the cuts with --split-teacher and --split-student.",
        )
