"""Cuts chosen by hand: the names of modules -> the places behind them."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from graftcli.errors import PairError, UsageError
from graftcli.models.cuts.automatic_cuts import Position, cuts, positions
from graftcli.models.tracing.trace import Traced


@dataclass(frozen=True)
class CutOptions:
    """How the cuts are to be chosen; all None: where both networks shrink the image."""

    blocks: int | None = None
    teacher: tuple[str, ...] | None = None
    student: tuple[str, ...] | None = None


def check(choice: CutOptions) -> None:
    """A choice that contradicts itself is refused."""
    if choice.blocks is not None and choice.blocks < 2:
        raise UsageError(
            f"--blocks-count {choice.blocks} leaves nothing to graft: a plan has two blocks or more.",
            "Give at least 2, or leave --blocks-count out.",
        )
    for role, names in (("teacher", choice.teacher), ("student", choice.student)):
        if names is None:
            continue
        if not names:
            raise UsageError(f"--split-{role} names no cut.", "Give names of modules, as layer1,layer2,layer3.")
        if choice.blocks is not None and len(names) != choice.blocks - 1:
            raise UsageError(
                f"--split-{role} makes {len(names) + 1} blocks, --blocks-count says {choice.blocks}.",
                "Leave one of the two out.",
            )


def by_hand(teacher: Traced, student: Traced, choice: CutOptions) -> list[tuple[Position, Position]]:
    """The named places of both; where only one network's are named, the other's first places of the same sizes."""
    ours = _named(teacher, choice.teacher, "teacher") if choice.teacher is not None else None
    theirs = _named(student, choice.student, "student") if choice.student is not None else None
    if ours is None and theirs is not None:
        ours = _of_same_sizes(cuts(teacher) + positions(teacher), theirs, "teacher")
    if theirs is None and ours is not None:
        theirs = _of_same_sizes(cuts(student) + positions(student), ours, "student")
    assert ours is not None and theirs is not None  # one of the two was given
    if len(ours) != len(theirs):
        raise PairError(
            f"--split-teacher names {len(ours)} cuts, --split-student names {len(theirs)}.",
            "Both need the same number.",
        )
    return list(zip(ours, theirs, strict=True))


def _named(traced: Traced, names: Sequence[str], role: str) -> list[Position]:
    """The places behind the named modules, which have to be in the order in which they run."""
    known = positions(traced)
    found: list[Position] = []
    for name in names:
        place = _behind(traced, name, known)
        if place is None:
            near = ", ".join(f"`{n}`" for n in get_close_matches(name, [p.name for p in known], 3, 0.3))
            exists = name in dict(traced.module.named_modules())
            what = "is no place where one tensor alone is alive" if exists else "is not in the network"
            raise PairError(
                f"--split-{role}: `{name}` {what}.",
                f"{f'Nearest: {near}. ' if near else ''}`graftcli inspect --all` lists every place that qualifies.",
            )
        if found and place.index <= found[-1].index:
            raise PairError(
                f"--split-{role}: `{name}` does not come after `{found[-1].name}`.",
                "Name the cuts in the order they run.",
            )
        found.append(place)
    return found


def _behind(traced: Traced, name: str, known: Sequence[Position]) -> Position | None:
    """The place where a module has just run, or that goes by this name itself."""
    node = traced.returned.get(name)
    return next((p for p in known if (p.node is node if node is not None else p.name == name)), None)


def _of_same_sizes(candidates: Sequence[Position], wanted: Sequence[Position], role: str) -> list[Position]:
    """For each wanted cut the first candidate of its size; natural cuts stand first."""
    found: list[Position] = []
    for number, place in enumerate(wanted, 1):
        same = [p for p in candidates if p.size == place.size and (not found or p.index > found[-1].index)]
        if not same:
            raise PairError(
                f"cut {number} differs: `{place.name}` sees {size_of(place)},"
                f" and the {role} has no free place of that size.",
                f"Choose the {role}'s cuts too, with --split-{role}.",
            )
        found.append(same[0])
    return found


def size_of(place: Position) -> str:
    """The size of the map at a place, as people write it."""
    return f"{place.size[0]}x{place.size[1]}"
