"""Find the channels of a network that are coupled, by running its graph on channel names instead of activations.

A layer that mixes its inputs creates new channels. Adding two feature maps, or scaling one by the other, couples their
channels. All other operations only move channels, so a layer after a concatenation, flatten or shuffle still reads the
channels of the layers before it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graftcli.models.channels.propagation import IMAGES, ChannelPropagation
from graftcli.models.tracing.trace import Traced

__all__ = ["IMAGES", "ChannelGroups", "channels"]


@dataclass(frozen=True)
class ChannelGroups:
    """The channels of a network, numbered from 1; 0 is a channel whose origin is unknown."""

    gives: Mapping[str, tuple[int, ...]]  # output channels by layer; for a parameter, the channel of each entry
    reads: Mapping[str, tuple[int, ...]]  # input channels of layers that mix their inputs
    groups: Mapping[str, int]  # groups of grouped layers that mix their inputs
    parts: Mapping[str, tuple[int, ...]]  # channels of a slice, by the path of the slicing operation
    lost: frozenset[int]  # channels that also reach operations through which they cannot be followed


def channels(traced: Traced) -> ChannelGroups:
    """Find which layers produce, carry and read which channels."""
    propagation = ChannelPropagation(traced)
    propagation.run(traced.example)
    roots = propagation.names.roots()

    def resolve(names_by_path: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
        # parameters of a layer that is listed too
        nested = (path for path in names_by_path if path.rpartition(".")[0] in names_by_path)
        independent = names_by_path.keys() - set(nested)
        return {
            path: tuple(roots[name] for name in names_by_path[path]) for path in names_by_path if path in independent
        }

    parts = {path: tuple(sorted({roots[name] for name in names} - {0})) for path, names in propagation.parts.items()}
    lost = frozenset(roots[name] for name in propagation.lost) - {0}
    return ChannelGroups(resolve(propagation.gives), resolve(propagation.reads), propagation.groups, parts, lost)
