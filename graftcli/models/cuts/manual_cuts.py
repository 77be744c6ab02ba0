"""Cuts chosen by the user: names of modules -> the positions after them."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from graftcli.errors import PairError, UsageError
from graftcli.models.cuts.automatic_cuts import Position, cuts, positions
from graftcli.models.tracing.trace import Traced


@dataclass(frozen=True)
class CutOptions:
    """How cuts are chosen; by default where both networks shrink the image."""

    blocks: int | None = None
    teacher: tuple[str, ...] | None = None
    student: tuple[str, ...] | None = None


def check(options: CutOptions) -> None:
    """Refuse contradictory options."""
    if options.blocks is not None and options.blocks < 2:
        raise UsageError(
            f"--blocks-count {options.blocks} is too small: a plan has at least 2 blocks.",
            "Give at least 2, or remove --blocks-count.",
        )
    for role, names in (("teacher", options.teacher), ("student", options.student)):
        if names is None:
            continue
        if not names:
            raise UsageError(f"--split-{role} is empty.", "Give module names, such as layer1,layer2,layer3.")
        if options.blocks is not None and len(names) != options.blocks - 1:
            raise UsageError(
                f"--split-{role} makes {len(names) + 1} blocks; --blocks-count is {options.blocks}.",
                "Remove one of the two.",
            )


def manual_pairs(teacher: Traced, student: Traced, options: CutOptions) -> list[tuple[Position, Position]]:
    """Pair the named positions; if only one network is cut by hand, match the other by size."""
    teacher_cuts = _named(teacher, options.teacher, "teacher") if options.teacher is not None else None
    student_cuts = _named(student, options.student, "student") if options.student is not None else None
    if teacher_cuts is None and student_cuts is not None:
        teacher_cuts = _match_sizes(cuts(teacher) + positions(teacher), student_cuts, "teacher")
    if student_cuts is None and teacher_cuts is not None:
        student_cuts = _match_sizes(cuts(student) + positions(student), teacher_cuts, "student")
    assert teacher_cuts is not None and student_cuts is not None  # at least one of the two is given
    if len(teacher_cuts) != len(student_cuts):
        raise PairError(
            f"--split-teacher names {len(teacher_cuts)} cuts; --split-student names {len(student_cuts)}.",
            "Give the same number of cuts for both.",
        )
    return list(zip(teacher_cuts, student_cuts, strict=True))


def _named(traced: Traced, names: Sequence[str], role: str) -> list[Position]:
    """The positions after the named modules, which must be in order of execution."""
    known = positions(traced)
    chosen: list[Position] = []
    for name in names:
        position = _after_module(traced, name, known)
        if position is None:
            nearest = ", ".join(f"`{n}`" for n in get_close_matches(name, [p.name for p in known], 3, 0.3))
            exists = name in dict(traced.module.named_modules())
            problem = "is not a position where a single tensor is alive" if exists else "is not in the network"
            raise PairError(
                f"--split-{role}: `{name}` {problem}.",
                f"{f'Nearest: {nearest}. ' if nearest else ''}`graftcli inspect --all` lists all positions.",
            )
        if chosen and position.index <= chosen[-1].index:
            raise PairError(
                f"--split-{role}: `{name}` does not come after `{chosen[-1].name}`.",
                "Name the cuts in order of execution.",
            )
        chosen.append(position)
    return chosen


def _after_module(traced: Traced, name: str, known: Sequence[Position]) -> Position | None:
    """The position after a module, or the position with this name."""
    node = traced.returned.get(name)
    return next((p for p in known if (p.node is node if node is not None else p.name == name)), None)


def _match_sizes(candidates: Sequence[Position], cuts_to_match: Sequence[Position], role: str) -> list[Position]:
    """For each cut of the other network, the first candidate of equal size."""
    chosen: list[Position] = []
    for number, position in enumerate(cuts_to_match, 1):
        same = [p for p in candidates if p.size == position.size and (not chosen or p.index > chosen[-1].index)]
        if not same:
            raise PairError(
                f"cut {number} differs: `{position.name}` is {size_of(position)},"
                f" and the {role} has no unused position of that size.",
                f"Choose the cuts of the {role} as well, with --split-{role}.",
            )
        chosen.append(same[0])
    return chosen


def size_of(position: Position) -> str:
    """Format the resolution of a position: 14x14."""
    return f"{position.size[0]}x{position.size[1]}"
