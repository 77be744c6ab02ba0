"""Two traced networks -> the cuts at which they meet: places where both see maps of the same size."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from graftcli.errors import PairError
from graftcli.models.cuts.automatic_cuts import (
    Position,
    beside,
    by_work,
    cuts,
    equal_shares,
    positions,
    shrinks,
    work_before,
)
from graftcli.models.cuts.manual_cuts import CutOptions, by_hand, check, size_of
from graftcli.models.tracing.trace import Traced

__all__ = ["CutOptions", "Pair", "pair", "pair_derived"]

Pair = tuple[Position, Position]  # the teacher's place, the student's

_DEFAULT_BLOCKS = 4  # for networks of one resolution
_NEARLY_ALL = 0.75  # of the work behind the last cut: all before it is a mere stem


def pair(teacher: Traced, student: Traced, choice: CutOptions) -> list[Pair]:
    """The places where both networks are cut, in order; at least one."""
    check(choice)
    if choice.teacher is not None or choice.student is not None:
        pairs = by_hand(teacher, student, choice)
    else:
        pairs = _found(teacher, student, choice.blocks)
    _check_sizes(pairs)
    return pairs


def pair_derived(teacher: Traced, student: Traced, choice: CutOptions) -> list[Pair]:
    """The teacher's own cuts, in both: a student made of the teacher has them too, but for those behind units that it
    dropped. Were each cut as suits it best, a block of the one could do what a block of the other does not."""
    if choice.teacher is None and choice.student is None:
        theirs = {(place.name, place.size): place for place in reversed(positions(student))}
        own = [(place, theirs.get((place.name, place.size))) for place, _ in pair(teacher, teacher, choice)]
        pairs = [(place, other) for place, other in own if other is not None]
        rising = all(first[1].index < second[1].index for first, second in pairwise(pairs))
        if pairs and rising and choice.blocks in (None, len(pairs) + 1):
            return pairs
    return pair(teacher, student, choice)


def _found(teacher: Traced, student: Traced, count: int | None) -> list[Pair]:
    """Where both shrink; networks of one resolution, and what follows a mere stem, at equal shares of their work."""
    ours, theirs = _cuts_of(teacher, "teacher"), _cuts_of(student, "student")
    if not ours and not theirs:
        return _at_equal_shares(teacher, student, count)
    pairs = _natural(teacher, student, ours, theirs)
    if count is not None:
        return _as_many(teacher, student, pairs, count)
    return _filled(teacher, student, pairs, len(pairs) + _DEFAULT_BLOCKS) if _is_stem(teacher, pairs) else pairs


def _is_stem(teacher: Traced, pairs: Sequence[Pair]) -> bool:
    """Whether what lies before the last cut is little beside what lies behind it."""
    work = work_before(teacher)
    return 1 - work[pairs[-1][0].index] / work[-1] > _NEARLY_ALL


def _cuts_of(traced: Traced, role: str) -> list[Position]:
    """The natural cuts of a network that can be cut at all."""
    natural = cuts(traced)
    if not natural and not by_work(traced, 2):
        raise PairError(
            f"the {role}, a `{type(traced.module).__name__}`, cannot be cut: nowhere about the middle of its work does"
            " one tensor alone carry all that is still needed.",
            f"Choose a network of another family, or cuts with --split-{role} (`graftcli inspect --all` lists them).",
        )
    return natural


def _at_equal_shares(teacher: Traced, student: Traced, count: int | None) -> list[Pair]:
    """As many blocks as were asked for; else the usual number, or fewer where a network has fewer places."""
    for blocks in range(count or _DEFAULT_BLOCKS, 2, -1):
        sides = [by_work(traced, blocks) for traced in (teacher, student)]
        if all(len(side) == blocks - 1 for side in sides):
            break
    else:
        blocks, sides = 2, [by_work(traced, 2) for traced in (teacher, student)]
    _check_count(blocks, count or blocks)
    return list(zip(*sides, strict=True))


# -- where both shrink --------------------------------------------------------------------------------------------


def _natural(teacher: Traced, student: Traced, ours: Sequence[Position], theirs: Sequence[Position]) -> list[Pair]:
    """The natural cuts of both that have one size; else the places beside the same shrinking step in both."""
    same = _common(ours, theirs)
    aligned = _beside_the_same_step(teacher, student)
    best = aligned if len(aligned) > len(same) else same
    if not best:
        raise PairError(
            "the two networks have no place in common to be cut at:"
            f" the teacher's maps {_sizes(teacher, ours)}, the student's {_sizes(student, theirs)}.",
            "Choose two that shrink the image equally, or choose the cuts with --split-teacher and --split-student"
            " (`graftcli inspect --all` lists them).",
        )
    _check_steps(teacher, student, ours, theirs, best)
    return best


def _sizes(traced: Traced, places: Sequence[Position]) -> str:
    if not places:
        return f"are {size_of(by_work(traced, 2)[0])} throughout"
    return f"shrink behind {', '.join(f'{size_of(p)} (`{p.name}`)' for p in places)}"


def _common(ours: Sequence[Position], theirs: Sequence[Position]) -> list[Pair]:
    """The longest list of pairs of equal size that goes forward in both."""
    if not ours or not theirs:
        return []
    if ours[0].size == theirs[0].size:
        return [(ours[0], theirs[0]), *_common(ours[1:], theirs[1:])]
    return max(_common(ours[1:], theirs), _common(ours, theirs[1:]), key=len)


def _beside_the_same_step(teacher: Traced, student: Traced) -> list[Pair]:
    """For each step from one size to the next that both networks take, the same side of it in both."""
    steps = {(s.before[-1].size, s.after[0].size): s for s in shrinks(teacher) if s.stage}
    found: list[Pair] = []
    for shrink in shrinks(student):
        other = steps.get((shrink.before[-1].size, shrink.after[0].size))
        if other is None or not shrink.stage:
            continue
        for theirs in beside(shrink):
            ours = next((p for p in beside(other) if p.size == theirs.size), None)
            if ours is not None and (not found or _after(found[-1], (ours, theirs))):
                found.append((ours, theirs))
                break
    return found


def _after(last: Pair, new: Pair) -> bool:
    return new[0].index > last[0].index and new[1].index > last[1].index


def _check_steps(
    teacher: Traced, student: Traced, ours: Sequence[Position], theirs: Sequence[Position], pairs: Sequence[Pair]
) -> None:
    """Two networks that shrink by the same factors but round differently are no pair."""
    used = [{place.node for place in side} for side in zip(*pairs, strict=True)]
    lost = [p for p in ours if p.node not in used[0]]
    theirs_lost = {_step(student, p): p for p in theirs if p.node not in used[1]}
    for place in lost:
        other = theirs_lost.get(_step(teacher, place))
        if other is not None and other.size != place.size:
            number = 1 + sum(first.index < place.index for first, _ in pairs)
            raise differs(number, place, other)


def _step(traced: Traced, place: Position) -> int:
    """How many times the image was halved on the way here, nearly."""
    return round(math.log2(traced.shapes[traced.source][2] / place.size[0]))


def differs(number: int, ours: Position, theirs: Position) -> PairError:
    return PairError(
        f"cut {number} differs: teacher `{ours.name}` sees {size_of(ours)},"
        f" student `{theirs.name}` sees {size_of(theirs)}.",
        "Both networks must shrink the image equally: try an --img-size that divides evenly (a multiple of 32), or"
        " choose the cuts with --split-student.",
    )


def _check_sizes(pairs: Sequence[Pair]) -> None:
    for number, (ours, theirs) in enumerate(pairs, 1):
        if ours.size != theirs.size:
            raise differs(number, ours, theirs)
        if ours.prefix != theirs.prefix:
            raise PairError(
                f"cut {number} differs: beside its map, teacher `{ours.name}` carries {_tokens(ours)},"
                f" student `{theirs.name}` {_tokens(theirs)}.",
                "A class token has no place on a map: choose networks of one kind, or one that averages its tokens.",
            )


def _tokens(place: Position) -> str:
    return f"{place.prefix or 'no'} token{'s' * (place.prefix != 1)}"


# -- a number of blocks -------------------------------------------------------------------------------------------


def _as_many(teacher: Traced, student: Traced, pairs: list[Pair], count: int) -> list[Pair]:
    """Exactly `count` blocks: the cuts that share the teacher's work most equally, or more cuts inside the largest."""
    if count - 1 <= len(pairs):
        places = equal_shares([p for p, _ in pairs], work_before(teacher), 0, len(teacher.nodes), count)
        return [both for both in pairs if both[0] in places]
    found = _filled(teacher, student, pairs, count)
    _check_count(len(found) + 1, count)
    return found


def _filled(teacher: Traced, student: Traced, pairs: Sequence[Pair], count: int) -> list[Pair]:
    """With more cuts inside the largest blocks, up to `count` blocks where there are places enough."""
    found = list(pairs)
    while len(found) < count - 1:
        extra = next(_between(teacher, student, found), None)
        if extra is None:
            break
        found = sorted([*found, extra], key=lambda both: both[0].index)
    return found


def _between(teacher: Traced, student: Traced, pairs: Sequence[Pair]) -> Iterator[Pair]:
    """Places of one size inside the blocks, the middle of the teacher's largest block first."""
    work, theirs_work = work_before(teacher), work_before(student)
    bounds = [(0, 0), *((a.index, b.index) for a, b in pairs), (len(teacher.nodes), len(student.nodes))]
    ranges = sorted(pairwise(bounds), key=lambda r: work[r[0][0]] - work[r[1][0]])
    for (start, their_start), (stop, their_stop) in ranges:
        inside = _inside(positions(teacher), work, start, stop)
        others = _inside(positions(student), theirs_work, their_start, their_stop)
        sizes = {p.size for p in inside} & {p.size for p in others}
        ours = equal_shares([p for p in inside if p.size in sizes], work, start, stop, 2)
        theirs = equal_shares(
            [p for p in others if ours and p.size == ours[0].size], theirs_work, their_start, their_stop, 2
        )
        if ours and theirs:
            yield ours[0], theirs[0]


def _inside(places: Sequence[Position], work: Sequence[int], start: int, stop: int) -> list[Position]:
    """The places between two others that leave work to do on both sides."""
    return [p for p in places if work[start] < work[p.index] < work[stop]]


def _check_count(found: int, count: int) -> None:
    if found != count:
        raise PairError(
            f"{count} blocks were asked for; these two networks can be cut together into {found} at most.",
            f"Give --blocks-count {found} or fewer, or choose the cuts with --split-teacher and --split-student.",
        )
