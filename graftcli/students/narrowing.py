"""Narrower students: choose the channels to remove, and verify that the rest of the network is unaffected:

    narrow(teacher, selections)(x) == teacher'(x)

where teacher' reads zeros from the removed channels. Channels for which this does not hold are kept.
"""

import copy
import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import nn

from graftcli.errors import PairError, UsageError
from graftcli.models.channel_selection import (
    ChannelSelection,
    channel_counts,
    layer_at,
    narrow,
    narrowable_layers,
    reads_all,
)
from graftcli.models.cuts.automatic_cuts import cuts
from graftcli.models.tracing.trace import Traced
from graftcli.students.channel_groups import ChannelGroup, find_channel_groups
from graftcli.students.student_kind import Changes

Removed = Sequence[tuple[ChannelGroup, frozenset[int]]]  # the channels to remove from each group
_OTHER_SPECS = "Choose drop:auto=2, lowrank:0.5, or a smaller network of the same family."
_TOLERANCE = 1e-6  # relative to the largest logit, in float64: above rounding errors, far below a wrong channel


def narrow_blocks(traced: Traced, factors: Sequence[float]) -> Changes:
    """Keep the first channels of every layer, scaled by the factor of its block; the head keeps its width."""
    bounds = [0, *(cut.index for cut in cuts(traced)), len(traced.nodes)]
    blocks = len(bounds) - 1
    if len(factors) not in (1, blocks):
        message = f"the teacher has {blocks} blocks, but the spec gives {len(factors)} factors."
        raise UsageError(message, "Give one factor, or one per block; `graftcli inspect` lists the blocks.")
    per_block = [*factors] * (blocks if len(factors) == 1 else 1)
    index = {traced.paths[node]: i for i, node in enumerate(traced.nodes)}

    def choose(groups: Sequence[ChannelGroup]) -> Removed:
        channels_removed = []
        for group in groups:
            position = min(index.get(member.layer, len(index)) for member in group.members if member.is_output)
            block = next(k for k, (_, stop) in enumerate(pairwise(bounds)) if position < stop or stop == bounds[-1])
            channels_removed.append((group, frozenset(range(width(group.count, per_block[block]), group.count))))
        return channels_removed

    return select(traced, choose)


def width(channels: int, factor: float) -> int:
    """The number of channels to keep, rounded half up, at least 1."""
    return max(1, math.floor(channels * factor + 0.5))


# -- selections --------------------------------------------------------------------------------------------------


def select(traced: Traced, choose: Callable[[Sequence[ChannelGroup]], Removed]) -> Changes:
    """The changes that remove the chosen channels; channels that cannot be removed are kept and reported as `whole`."""
    removable, whole = find_channel_groups(traced)
    removed = choose(removable)
    if not _is_valid(traced, removed):
        valid = [group for group, _ in removed if _is_valid(traced, [(group, frozenset({0, group.count - 1}))])]
        whole += [path for group in removable if group not in valid for path in group.producers(traced.module)]
        removed = choose(valid) if valid else []
        if not _is_valid(traced, removed):
            removed = []
    if not removed:
        message = f"no channels of `{type(traced.module).__name__}` can be removed independently of the others."
        raise PairError(message, _OTHER_SPECS)
    order = [path for path, _ in traced.module.named_modules()]
    return Changes(selections_without(traced.module, removed), whole=sorted(whole, key=order.index))


def selections_without(module: nn.Module, removed: Removed) -> tuple[ChannelSelection, ...]:
    """The selections that remain without the removed channels."""
    removed_indices: dict[tuple[str, bool], set[int]] = {}
    for group, channels in removed:
        for member in group.members:
            removed_indices.setdefault((member.layer, member.is_output), set()).update(member.indices_of(set(channels)))
    layers = dict.fromkeys([*(path for path, _ in narrowable_layers(module)), *(path for path, _ in removed_indices)])
    selections = []
    for path in layers:
        layer = layer_at(module, path)
        outputs, inputs = (
            tuple(i for i in range(extent) if i not in removed_indices.get((path, is_output), ()))
            for extent, is_output in zip(channel_counts(layer), (True, False), strict=True)
        )
        selections.append(
            ChannelSelection(path, path, outputs, inputs if reads_all(layer) or _is_grouped(layer) else outputs)
        )
    return tuple(selections)


def _is_grouped(layer: nn.Module | nn.Parameter) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups != layer.out_channels


# -- verification ------------------------------------------------------------------------------------------------


@torch.no_grad()
def _is_valid(traced: Traced, removed: Removed) -> bool:
    """Whether the narrowed network equals the network that reads zeros from the removed channels."""
    base, images = _with_random_scales(traced.module), traced.example.double()
    selections = selections_without(base, removed)
    try:
        output = narrow(base, selections)(images)
    except Exception:  # any exception of the network's code at other widths
        return False
    if any(
        isinstance(layer_at(base, selection.layer), nn.LayerNorm) and not _is_full(base, selection)
        for selection in selections
    ):
        # outputs are not compared, because those of a LayerNorm depend on all channels
        return tuple(output.shape) == (len(images), _classes(traced))
    for selection in selections:
        layer = layer_at(base, selection.layer)
        if isinstance(layer, nn.Conv2d | nn.Linear) and reads_all(layer):
            layer.weight[:, sorted(set(range(channel_counts(layer)[1])) - set(selection.inputs))] = 0
    expected = base(images)
    return output.shape == expected.shape and bool((output - expected).abs().max() <= _TOLERANCE * expected.abs().max())


def _is_full(module: nn.Module, selection: ChannelSelection) -> bool:
    return (len(selection.outputs), len(selection.inputs)) == channel_counts(layer_at(module, selection.layer))


def _classes(traced: Traced) -> int:
    output = traced.nodes[-1].all_input_nodes[0]
    return traced.shapes[output][1]


def _with_random_scales(module: nn.Module) -> nn.Module:
    """A float64 copy with random nonzero scales: new networks may scale whole branches by zero."""
    copied = copy.deepcopy(module).double()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in copied.named_parameters():
        if sum(extent > 1 for extent in parameter.shape) == 1 and not name.endswith("bias"):
            parameter.copy_(0.5 + torch.rand(parameter.shape, generator=generator))
    return copied
