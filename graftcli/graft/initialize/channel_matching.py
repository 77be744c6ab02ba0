"""Which of the teacher's channels each channel of a student stands for, when the student inherits from it.

Channels that are one (`nets.channels`) go together: all layers that write into one sum take the same ones, and each
reader takes on its input what the makers took on their output. Of more channels the most important stay, in order.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

from torch import nn

from graftcli.models.channel_selection import ChannelSelection
from graftcli.models.channels.groups import IMAGES, ChannelGroups

Role = tuple[str, str, int]  # where in the teacher a channel is made, read or taken out of a map; in which group
Group = tuple[frozenset[Role], list[int]]  # channels that play the same roles, in the order in which they are made


def matched(
    ours: ChannelGroups, theirs: ChannelGroups, layers: Mapping[str, str], importance: Mapping[int, float]
) -> tuple[ChannelSelection, ...]:
    """What each layer of the student takes of the teacher's layer in its place, where that is as wide or wider.

    `layers` has the teacher's module for each of the student's, by path. Channels that cannot be followed from one
    network to the other are the first ones that are left.
    """
    sources = {path: source for path in theirs.gives if (source := _source(path, layers)) in ours.gives}
    parts = {path: source for path in theirs.parts if (source := _source(path, layers)) in ours.parts}
    stands_for = _stands_for(ours, theirs, sources | parts, importance)
    found = []
    for path, source in sources.items():
        outputs = _places(theirs.gives[path], ours.gives[source], stands_for)
        inputs = _places(theirs.reads.get(path, ()), ours.reads.get(source, ()), stands_for)
        if path != IMAGES and outputs is not None and inputs is not None:
            found.append(ChannelSelection(path, source, outputs, inputs if path in theirs.reads else outputs))
    return tuple(found)


def _source(path: str, layers: Mapping[str, str]) -> str:
    """What in the teacher stands at the place of a layer, or of a single parameter; nothing where there is none."""
    scope, dot, name = path.rpartition(".")
    if path == IMAGES or path in layers:
        return layers.get(path, path)
    return f"{layers[scope]}{dot if layers[scope] else ''}{name}" if scope in layers else ""


def _places(names: Sequence[int], among: Sequence[int], stands_for: Mapping[int, int]) -> tuple[int, ...] | None:
    """Where in the teacher's layer the channels of the student's layer lie, each place once; None if it has fewer."""
    if len(names) > len(among):
        return None
    where = {key: place for place, key in enumerate(_numbered(among)) if key[0]}
    wanted = [where.pop((stands_for.get(name, 0), nth), None) for name, nth in _numbered(names)]
    return filled(wanted, len(among))


def filled(wanted: Sequence[int | None], count: int) -> tuple[int, ...]:
    """These places, and where there is none the first of `count` that are left."""
    taken = {place for place in wanted if place is not None}
    left = (place for place in range(count) if place not in taken)
    return tuple(next(left) if place is None else place for place in wanted)


def _numbered(names: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Each name, and how often it came before: a flattened channel has many entries."""
    seen: Counter[int] = Counter()
    for name in names:
        yield name, seen[name]
        seen[name] += 1


# -- which channel stands for which -------------------------------------------------------------------------------


def _stands_for(
    ours: ChannelGroups, theirs: ChannelGroups, sources: Mapping[str, str], importance: Mapping[int, float]
) -> dict[int, int]:
    """The teacher's channel for each of the student's that has one."""
    among = _groups(ours, {source: source for source in sources.values()})
    found: dict[int, int] = {}
    for roles, names in _groups(theirs, sources, ours.groups):
        group = _nearest(roles, len(names), among)
        if group:
            blind = not theirs.lost.isdisjoint(names) or not ours.lost.isdisjoint(group)
            found |= zip(names, _chosen(group, len(names), {} if blind else importance), strict=True)
    return found


def _chosen(names: Sequence[int], count: int, importance: Mapping[int, float]) -> list[int]:
    """The most important ones, in their order; among equals the first."""
    ranked = sorted(names, key=lambda name: -importance.get(name, 0.0))
    chosen = set(ranked[:count])
    return [name for name in names if name in chosen]


def _groups(net: ChannelGroups, sources: Mapping[str, str], counts: Mapping[str, int] | None = None) -> list[Group]:
    """The channels of a network by their roles, told in the teacher's layers, of which `counts` has the groups."""
    roles: dict[int, set[Role]] = {}
    for path, source in sources.items():
        count = net.groups.get(path, 1)
        made = net.gives[path] if path in net.reads or path == IMAGES else ()
        for side, names in (("makes", made), ("reads", net.reads.get(path, ())), ("part", net.parts.get(path, ()))):
            for place, name in enumerate(names):
                group = even(place * count // len(names), count, (counts or {}).get(source, count))
                roles.setdefault(name, set()).add((source, side, group))
    found: dict[frozenset[Role], list[int]] = {}
    for name in sorted(roles):
        found.setdefault(frozenset(roles[name]), []).append(name)
    return list(found.items())


def _nearest(roles: frozenset[Role], count: int, among: Collection[Group]) -> list[int]:
    """The teacher's channels that share most roles with the student's, if they are as many or more."""
    alike = [(len(roles & other) / len(roles | other), names) for other, names in among if len(names) >= count]
    best = max((share for share, _ in alike), default=0.0)
    return next((names for share, names in alike if share == best > 0), [])


# -- which layer corresponds to which -----------------------------------------------------------------------------


def pairs(ours: nn.Module, theirs: nn.Module) -> Iterator[tuple[str, str]]:
    """The paths of the modules that correspond, from the top of both trees down."""
    yield from _pairs(("", ours), ("", theirs))


def _pairs(ours: tuple[str, nn.Module], theirs: tuple[str, nn.Module]) -> Iterator[tuple[str, str]]:
    yield ours[0], theirs[0]
    children, others = _children(*ours), _children(*theirs)
    if _is_row(ours[1]) and _is_row(theirs[1]) and len(children) != len(others):
        sources = list(children.values())
        for i, child in enumerate(others.values()):
            yield from _pairs(sources[even(i, len(others), len(sources))], child)
        return
    for name, child in others.items():
        if name in children:
            yield from _pairs(children[name], child)


def _children(path: str, module: nn.Module) -> dict[str, tuple[str, nn.Module]]:
    return {name: (f"{path}.{name}".lstrip("."), child) for name, child in module.named_children()}


def _is_row(module: nn.Module) -> bool:
    """Whether a container holds units of one kind, one after the other."""
    kinds = {type(child) for child in module.children()}
    return isinstance(module, nn.Sequential | nn.ModuleList) and len(kinds) == 1 and len(list(module.children())) > 0


def even(i: int, count: int, of: int) -> int:
    """Which of `of` things in a row corresponds to the `i`-th of `count`."""
    return round(i * (of - 1) / (count - 1)) if count > 1 else 0
