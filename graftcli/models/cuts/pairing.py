"""Pair the cuts of two traced networks: positions where both have feature maps of equal size."""

import math
from collections.abc import Sequence
from itertools import pairwise

from graftcli.errors import PairError
from graftcli.models.cuts.automatic_cuts import (
    Position,
    cuts,
    equal_work_cuts,
    macs_before,
    positions,
    positions_beside,
    shrinks,
)
from graftcli.models.cuts.block_count import Pair, check_count, with_count, with_extra_cuts
from graftcli.models.cuts.manual_cuts import CutOptions, check, manual_pairs, size_of
from graftcli.models.cuts.positions import needs_adapter
from graftcli.models.tracing.trace import Traced

__all__ = ["CutOptions", "Pair", "pair", "pair_derived"]


_DEFAULT_BLOCKS = 4  # for networks of one resolution
_STEM_THRESHOLD = 0.75  # if this share of the MACs follows the last cut, the cuts only separate the stem


def pair(teacher: Traced, student: Traced, options: CutOptions) -> list[Pair]:
    """Pair the cuts of both networks, in order; at least one pair."""
    check(options)
    if options.teacher is not None or options.student is not None:
        pairs = manual_pairs(teacher, student, options)
    else:
        pairs = [_after_relu(*found) for found in _automatic_pairs(teacher, student, options.blocks)]
    _check_sizes(pairs)
    return pairs


def _after_relu(teacher: Position, student: Position) -> Pair:
    """Move the teacher's position after its ReLU, if the student's position follows a ReLU and the teacher's does not.

    A student block that ends with a ReLU cannot return negative values, which the teacher has before its ReLU.
    """
    if teacher.channels == student.channels and needs_adapter(teacher, student):
        work = macs_before(teacher.traced)
        for later in positions(teacher.traced):
            is_after = later.index > teacher.index and work[later.index] == work[teacher.index]
            if is_after and later.shape == teacher.shape and later.nonnegative:
                return later, student
    return teacher, student


def pair_derived(teacher: Traced, student: Traced, options: CutOptions) -> list[Pair]:
    """Cut a derived student at the teacher's cuts, except those after dropped units, so that blocks correspond."""
    if options.teacher is None and options.student is None:
        student_positions = {(position.name, position.size): position for position in reversed(positions(student))}
        matches = [
            (position, student_positions.get((position.name, position.size)))
            for position, _ in pair(teacher, teacher, options)
        ]
        pairs = [(position, student_position) for position, student_position in matches if student_position is not None]
        rising = all(first[1].index < second[1].index for first, second in pairwise(pairs))
        if pairs and rising and options.blocks in (None, len(pairs) + 1):
            return pairs
    return pair(teacher, student, options)


def _automatic_pairs(teacher: Traced, student: Traced, count: int | None) -> list[Pair]:
    """Cut where both networks shrink the image; cut a single resolution, also one after a stem, into equal MACs."""
    teacher_cuts, student_cuts = _cuts_of(teacher, "teacher"), _cuts_of(student, "student")
    if not teacher_cuts and not student_cuts:
        return _at_equal_shares(teacher, student, count)
    pairs = _natural(teacher, student, teacher_cuts, student_cuts)
    if count is not None:
        return with_count(teacher, student, pairs, count)
    return with_extra_cuts(teacher, student, pairs, len(pairs) + _DEFAULT_BLOCKS) if _is_stem(teacher, pairs) else pairs


def _is_stem(teacher: Traced, pairs: Sequence[Pair]) -> bool:
    """Whether the cuts separate only a stem."""
    work = macs_before(teacher)
    return 1 - work[pairs[-1][0].index] / work[-1] > _STEM_THRESHOLD


def _cuts_of(traced: Traced, role: str) -> list[Position]:
    """The natural cuts of a network; refuses one that cannot be cut."""
    natural = cuts(traced)
    if not natural and not equal_work_cuts(traced, 2):
        raise PairError(
            f"the {role} `{type(traced.module).__name__}` cannot be cut: near the middle of its MACs there is no"
            " position where a single tensor is alive.",
            f"Choose a network of another family, or cuts with --split-{role} (`graftcli inspect --all` lists them).",
        )
    return natural


def _at_equal_shares(teacher: Traced, student: Traced, count: int | None) -> list[Pair]:
    """Cut into `count` blocks of equal MACs; by default 4, or fewer if a network has fewer positions."""
    for blocks in range(count or _DEFAULT_BLOCKS, 2, -1):
        sides = [equal_work_cuts(traced, blocks) for traced in (teacher, student)]
        if all(len(side) == blocks - 1 for side in sides):
            break
    else:
        blocks, sides = 2, [equal_work_cuts(traced, 2) for traced in (teacher, student)]
    check_count(blocks, count or blocks)
    return list(zip(*sides, strict=True))


# -- natural cuts ------------------------------------------------------------------------------------------------


def _natural(
    teacher: Traced, student: Traced, teacher_cuts: Sequence[Position], student_cuts: Sequence[Position]
) -> list[Pair]:
    """Pair natural cuts of equal size, or positions next to common downsampling steps if these give more pairs."""
    same = _common(teacher_cuts, student_cuts)
    aligned = _beside_common_steps(teacher, student)
    best = aligned if len(aligned) > len(same) else same
    if not best:
        raise PairError(
            f"the two networks have no common cut: the teacher's feature maps {_sizes(teacher, teacher_cuts)},"
            f" the student's {_sizes(student, student_cuts)}.",
            "Choose networks that shrink the image equally, or choose the cuts with --split-teacher and --split-student"
            " (`graftcli inspect --all` lists them).",
        )
    _check_steps(teacher, student, teacher_cuts, student_cuts, best)
    return best


def _sizes(traced: Traced, candidates: Sequence[Position]) -> str:
    if not candidates:
        return f"are {size_of(equal_work_cuts(traced, 2)[0])} throughout"
    return f"shrink after {', '.join(f'{size_of(p)} (`{p.name}`)' for p in candidates)}"


def _common(teacher_cuts: Sequence[Position], student_cuts: Sequence[Position]) -> list[Pair]:
    """The longest list of pairs of equal size, in order in both networks."""
    if not teacher_cuts or not student_cuts:
        return []
    if teacher_cuts[0].size == student_cuts[0].size:
        return [(teacher_cuts[0], student_cuts[0]), *_common(teacher_cuts[1:], student_cuts[1:])]
    return max(_common(teacher_cuts[1:], student_cuts), _common(teacher_cuts, student_cuts[1:]), key=len)


def _beside_common_steps(teacher: Traced, student: Traced) -> list[Pair]:
    """For each downsampling step that both networks have, a pair of positions next to it with equal size."""
    steps = {(s.before[-1].size, s.after[0].size): s for s in shrinks(teacher) if s.stage}
    pairs: list[Pair] = []
    for shrink in shrinks(student):
        teacher_shrink = steps.get((shrink.before[-1].size, shrink.after[0].size))
        if teacher_shrink is None or not shrink.stage:
            continue
        for student_position in positions_beside(shrink):
            teacher_position = next(
                (p for p in positions_beside(teacher_shrink) if p.size == student_position.size), None
            )
            if teacher_position is not None and (not pairs or _after(pairs[-1], (teacher_position, student_position))):
                pairs.append((teacher_position, student_position))
                break
    return pairs


def _after(last: Pair, new: Pair) -> bool:
    return new[0].index > last[0].index and new[1].index > last[1].index


def _check_steps(
    teacher: Traced,
    student: Traced,
    teacher_cuts: Sequence[Position],
    student_cuts: Sequence[Position],
    pairs: Sequence[Pair],
) -> None:
    """Refuse networks that downsample by the same factors but round differently."""
    used = [{position.node for position in side} for side in zip(*pairs, strict=True)]
    teacher_unused = [p for p in teacher_cuts if p.node not in used[0]]
    student_unused = {_step(student, p): p for p in student_cuts if p.node not in used[1]}
    for position in teacher_unused:
        other = student_unused.get(_step(teacher, position))
        if other is not None and other.size != position.size:
            number = 1 + sum(first.index < position.index for first, _ in pairs)
            raise size_mismatch(number, position, other)


def _step(traced: Traced, position: Position) -> int:
    """The number of times the image was halved before a position, rounded."""
    return round(math.log2(traced.shapes[traced.source][2] / position.size[0]))


def size_mismatch(number: int, teacher: Position, student: Position) -> PairError:
    return PairError(
        f"cut {number} differs: teacher `{teacher.name}` is {size_of(teacher)},"
        f" student `{student.name}` is {size_of(student)}.",
        "Both networks must shrink the image equally: try an --img-size that is a multiple of 32, or"
        " choose the cuts with --split-student.",
    )


def _check_sizes(pairs: Sequence[Pair]) -> None:
    for number, (teacher, student) in enumerate(pairs, 1):
        if teacher.size != student.size:
            raise size_mismatch(number, teacher, student)
        if teacher.prefix != student.prefix:
            raise PairError(
                f"cut {number} differs: teacher `{teacher.name}` has {_tokens(teacher)} without a spatial location,"
                f" student `{student.name}` {_tokens(student)}.",
                "Choose two networks with the same number of class and register tokens, or two without any.",
            )


def _tokens(position: Position) -> str:
    return f"{position.prefix or 'no'} token{'s' * (position.prefix != 1)}"
