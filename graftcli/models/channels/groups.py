"""Which channels of a network are one and the same: its graph is run on the names of channels in place of numbers.

A layer that mixes what it reads makes channels of its own. Where two maps are added, or one scales the other, their
channels become one. Everything else hands channels on, wherever it puts them: behind a concatenation, a flatten or a
shuffle a reader still reads whoever made them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graftcli.models.channels.propagation import IMAGES, ChannelPropagation
from graftcli.models.tracing.trace import Traced

__all__ = ["IMAGES", "ChannelGroups", "channels"]


@dataclass(frozen=True)
class ChannelGroups:
    """The channels of a network by number, from 1; 0 stands for one that nobody could follow."""

    gives: Mapping[str, tuple[int, ...]]  # by layer; of a single parameter, which channels its numbers belong to
    reads: Mapping[str, tuple[int, ...]]  # of layers that mix what they read
    groups: Mapping[str, int]  # of layers that mix what they read in groups
    parts: Mapping[str, tuple[int, ...]]  # what is taken out of a map, by the place where it is
    lost: frozenset[int]  # channels that also go where nobody could follow


def channels(traced: Traced) -> ChannelGroups:
    """Who makes, carries and reads which channels."""
    run = ChannelPropagation(traced)
    run.run(traced.example)
    roots = run.names.roots()

    def final(lists: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
        inside = (path for path in lists if path.rpartition(".")[0] in lists)  # a bias of a layer, beside the layer
        apart = lists.keys() - set(inside)
        return {path: tuple(roots[name] for name in lists[path]) for path in lists if path in apart}

    parts = {path: tuple(sorted({roots[name] for name in names} - {0})) for path, names in run.parts.items()}
    lost = frozenset(roots[name] for name in run.lost) - {0}
    return ChannelGroups(final(run.gives), final(run.reads), run.groups, parts, lost)
