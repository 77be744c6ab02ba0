"""Matches each channel of a student to a channel of the teacher, for students that inherit the teacher's weights.

Channels that belong together (`models.channels`) are matched together: all layers that write into one sum take the same
teacher channels, and the layers that read the sum take the same channels at their inputs. If the teacher has more
channels, the most important are kept, in order.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

from torch import nn

from graftcli.models.channel_selection import ChannelSelection
from graftcli.models.channels.groups import IMAGES, ChannelGroups

# the path of a teacher layer, whether it produces, reads or slices the channel, and the index of the convolution group
Role = tuple[str, str, int]
RoleGroup = tuple[frozenset[Role], list[int]]  # channels with the same roles, in the order in which they are made


def match_channels(
    teacher: ChannelGroups, student: ChannelGroups, layers: Mapping[str, str], importance: Mapping[int, float]
) -> tuple[ChannelSelection, ...]:
    """Return the channels that each student layer takes from its teacher layer, if that is at least as wide.

    `layers` maps the paths of the student's modules to the teacher's. Channels without a match get the first free ones.
    """
    sources = {path: source for path in student.gives if (source := _source(path, layers)) in teacher.gives}
    parts = {path: source for path in student.parts if (source := _source(path, layers)) in teacher.parts}
    matches = _matches(teacher, student, sources | parts, importance)
    selections = []
    for path, source in sources.items():
        outputs = _positions(student.gives[path], teacher.gives[source], matches)
        inputs = _positions(student.reads.get(path, ()), teacher.reads.get(source, ()), matches)
        if path != IMAGES and outputs is not None and inputs is not None:
            selections.append(ChannelSelection(path, source, outputs, inputs if path in student.reads else outputs))
    return tuple(selections)


def _source(path: str, layers: Mapping[str, str]) -> str:
    """Return the teacher's path for a student layer or parameter; empty if there is none."""
    scope, dot, name = path.rpartition(".")
    if path == IMAGES or path in layers:
        return layers.get(path, path)
    return f"{layers[scope]}{dot if layers[scope] else ''}{name}" if scope in layers else ""


def _positions(student: Sequence[int], teacher: Sequence[int], matches: Mapping[int, int]) -> tuple[int, ...] | None:
    """Return the distinct positions of the student's channels in the teacher's layer; None if it has fewer channels."""
    if len(student) > len(teacher):
        return None
    position_of = {key: position for position, key in enumerate(_with_occurrence(teacher)) if key[0]}
    positions = [position_of.pop((matches.get(channel, 0), nth), None) for channel, nth in _with_occurrence(student)]
    return fill_unmatched(positions, len(teacher))


def fill_unmatched(positions: Sequence[int | None], count: int) -> tuple[int, ...]:
    """Replace each None by the first free position below `count`."""
    taken = {position for position in positions if position is not None}
    free = (position for position in range(count) if position not in taken)
    return tuple(next(free) if position is None else position for position in positions)


def _with_occurrence(channels: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield each channel and the number of its earlier occurrences; a flattened channel has several entries."""
    counts: Counter[int] = Counter()
    for channel in channels:
        yield channel, counts[channel]
        counts[channel] += 1


# -- channels -----------------------------------------------------------------------------------------------------


def _matches(
    teacher: ChannelGroups, student: ChannelGroups, sources: Mapping[str, str], importance: Mapping[int, float]
) -> dict[int, int]:
    """Map each student channel that has a match to its teacher channel."""
    candidates = _by_role(teacher, {source: source for source in sources.values()})
    matches: dict[int, int] = {}
    for roles, channels in _by_role(student, sources, teacher.groups):
        group = _most_similar(roles, len(channels), candidates)
        if group:
            is_lost = not student.lost.isdisjoint(channels) or not teacher.lost.isdisjoint(group)
            matches |= zip(channels, _most_important(group, len(channels), {} if is_lost else importance), strict=True)
    return matches


def _most_important(channels: Sequence[int], count: int, importance: Mapping[int, float]) -> list[int]:
    """Return the `count` most important channels in their order; of equal ones the first."""
    ranked = sorted(channels, key=lambda channel: -importance.get(channel, 0.0))
    chosen = set(ranked[:count])
    return [channel for channel in channels if channel in chosen]


def _by_role(
    network: ChannelGroups, sources: Mapping[str, str], teacher_groups: Mapping[str, int] | None = None
) -> list[RoleGroup]:
    """Group the channels of a network by their roles in the teacher's layers, whose group counts are given."""
    roles: dict[int, set[Role]] = {}
    for path, source in sources.items():
        count = network.groups.get(path, 1)
        made = network.gives[path] if path in network.reads or path == IMAGES else ()
        sides = (("makes", made), ("reads", network.reads.get(path, ())), ("part", network.parts.get(path, ())))
        for side, channels in sides:
            for position, channel in enumerate(channels):
                group = even(position * count // len(channels), count, (teacher_groups or {}).get(source, count))
                roles.setdefault(channel, set()).add((source, side, group))
    groups: dict[frozenset[Role], list[int]] = {}
    for channel in sorted(roles):
        groups.setdefault(frozenset(roles[channel]), []).append(channel)
    return list(groups.items())


def _most_similar(roles: frozenset[Role], count: int, candidates: Collection[RoleGroup]) -> list[int]:
    """Return the group of at least `count` channels with the largest overlap of roles (intersection over union)."""
    overlaps = [
        (len(roles & other_roles) / len(roles | other_roles), channels)
        for other_roles, channels in candidates
        if len(channels) >= count
    ]
    best = max((overlap for overlap, _ in overlaps), default=0.0)
    return next((channels for overlap, channels in overlaps if overlap == best > 0), [])


# -- modules ------------------------------------------------------------------------------------------------------


def module_pairs(teacher: nn.Module, student: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the paths of corresponding modules of teacher and student, from the root down."""
    yield from _module_pairs(("", teacher), ("", student))


def _module_pairs(teacher: tuple[str, nn.Module], student: tuple[str, nn.Module]) -> Iterator[tuple[str, str]]:
    yield teacher[0], student[0]
    teacher_children, student_children = _children(*teacher), _children(*student)
    both_rows = _is_row(teacher[1]) and _is_row(student[1])
    if both_rows and len(teacher_children) != len(student_children):
        sources = list(teacher_children.values())
        for i, child in enumerate(student_children.values()):
            yield from _module_pairs(sources[even(i, len(student_children), len(sources))], child)
        return
    for name, child in student_children.items():
        if name in teacher_children:
            yield from _module_pairs(teacher_children[name], child)


def _children(path: str, module: nn.Module) -> dict[str, tuple[str, nn.Module]]:
    return {name: (f"{path}.{name}".lstrip("."), child) for name, child in module.named_children()}


def _is_row(module: nn.Module) -> bool:
    """Whether a container holds a sequence of units of one type."""
    types = {type(child) for child in module.children()}
    return isinstance(module, nn.Sequential | nn.ModuleList) and len(types) == 1 and len(list(module.children())) > 0


def even(i: int, count: int, total: int) -> int:
    """Return which of `total` items in a row corresponds to the i-th of `count`, at even distances."""
    return round(i * (total - 1) / (count - 1)) if count > 1 else 0
