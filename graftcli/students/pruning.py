"""Pruned students: remove the least important channels, per layer or in the whole network."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from graftcli.errors import PairError
from graftcli.models.tracing.trace import Traced
from graftcli.students.channel_groups import ChannelGroup, activation_energies, filter_norms, norm_scales
from graftcli.students.narrowing import Removed, select, width
from graftcli.students.student_kind import Changes

_MIN_SHARE = 0.1  # slimming keeps at least this share of each layer's channels


def prune_by_norms(traced: Traced, share: float) -> Changes:
    """Remove `share` of each layer's channels, those with the smallest filters."""
    return _prune_layers(traced, share, lambda groups: [filter_norms(group, traced.module) for group in groups])


def prune_by_activations(traced: Traced, share: float, images: Tensor) -> Changes:
    """Remove `share` of each layer's channels, those with the weakest activations on the images."""
    return _prune_layers(traced, share, lambda groups: activation_energies(groups, traced.module, images))


def slim(traced: Traced, share: float) -> Changes:
    """Remove `share` of all channels, those with the smallest BatchNorm scales (Liu et al. 2017)."""
    return select(traced, lambda groups: _slimmed(groups, traced.module, share))


def _prune_layers(traced: Traced, share: float, scores: Callable[[Sequence[ChannelGroup]], list[Tensor]]) -> Changes:
    def choose(groups: Sequence[ChannelGroup]) -> Removed:
        return [
            (group, frozenset(_lowest(score, group.count - width(group.count, 1 - share))))
            for group, score in zip(groups, scores(groups), strict=True)
        ]

    return select(traced, choose)


def _lowest(scores: Tensor, count: int) -> list[int]:
    """The channels with the lowest scores; the last ones among equals."""
    order = scores.flip(0).sort(stable=True).indices
    return [len(scores) - 1 - int(i) for i in order[:count]]


def _slimmed(groups: Sequence[ChannelGroup], module: nn.Module, share: float) -> Removed:
    """Network slimming: one threshold for all BatchNorm scales; channels without BatchNorm are kept."""
    scales = [(group, norm_scales(group, module)) for group in groups]
    scales = [(group, scale) for group, scale in scales if scale.any()]
    if not scales:
        message = f"`{type(module).__name__}` has no BatchNorm scales to rank channels by."
        raise PairError(message, "Prune by filter norms or activations: prune:l1=0.5, prune:act=0.5.")
    sorted_scales = torch.cat([scale for _, scale in scales]).sort().values
    threshold = sorted_scales[min(int(share * len(sorted_scales)), len(sorted_scales) - 1)]
    channels_removed = []
    for group, scale in scales:
        limit = group.count - width(group.count, _MIN_SHARE)
        channels_removed.append((group, frozenset(_lowest(scale, min(int((scale < threshold).sum()), limit)))))
    return channels_removed
