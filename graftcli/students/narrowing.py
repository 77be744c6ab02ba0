"""Narrower students: which channels stay, and the proof that the rest of the network does not miss the others.

    narrow(teacher, kept)(x) == teacher'(x)

where teacher' reads zeros of the channels that went. Channels for which that is not so stay.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from graftcli.errors import PairError, UsageError
from graftcli.models.channel_selection import ChannelSelection, extents, held, layers_of, narrow, reads_all
from graftcli.models.cuts.automatic_cuts import cuts
from graftcli.models.tracing.trace import Traced
from graftcli.students.channel_groups import ChannelGroup, coupled, energies, filter_sizes, norm_scales
from graftcli.students.spec import Narrower, Pruned, width

Gone = Sequence[tuple[ChannelGroup, frozenset[int]]]  # of each set of coupled channels, those that go
_ELSE = "Choose drop:auto=2, lowrank:0.5, or a smaller network of the same family."
_LEAST = 0.1  # of the channels of a layer, which slimming leaves to it whatever their scales
_NEARLY = 1e-6  # of the largest logit, in float64: far above roundings, far below a wrong channel


def narrower(traced: Traced, wanted: Narrower) -> tuple[tuple[ChannelSelection, ...], list[str]]:
    """The first channels of every layer, as many as its block's factor says. What the head makes keeps its width."""
    bounds = [0, *(cut.index for cut in cuts(traced)), len(traced.nodes)]
    blocks = len(bounds) - 1
    if len(wanted.factors) not in (1, blocks):
        found = f"the teacher has {blocks} blocks; {len(wanted.factors)} factors are given."
        raise UsageError(found, "Give one factor for all, or one a block, as `graftcli inspect` lists them.")
    factors = wanted.factors * (blocks if len(wanted.factors) == 1 else 1)
    index = {traced.paths[node]: i for i, node in enumerate(traced.nodes)}

    def choose(groups: Sequence[ChannelGroup]) -> Gone:
        found = []
        for one in groups:
            at = min(index.get(part.layer, len(index)) for part in one.parts if part.gives)
            block = next(k for k, (_, stop) in enumerate(pairwise(bounds)) if at < stop or stop == bounds[-1])
            found.append((one, frozenset(range(width(one.count, factors[block]), one.count))))
        return found

    return _chosen(traced, choose)


def pruned(traced: Traced, wanted: Pruned, images: Tensor | None) -> tuple[tuple[ChannelSelection, ...], list[str]]:
    """Without the channels that matter least: in each layer, or for slimming in the whole network."""
    module = traced.module

    def choose(groups: Sequence[ChannelGroup]) -> Gone:
        if wanted.rule == "slim":
            return _slimmed(groups, module, wanted.share)
        if wanted.rule == "l1":
            scores = [filter_sizes(one, module) for one in groups]
        else:
            scores = energies(groups, module, traced.example if images is None else images)
        return [
            (one, frozenset(_least(score, one.count - width(one.count, 1 - wanted.share))))
            for one, score in zip(groups, scores, strict=True)
        ]

    return _chosen(traced, choose)


def _least(scores: Tensor, count: int) -> list[int]:
    """The channels of the lowest scores; among equals the last ones."""
    order = scores.flip(0).sort(stable=True).indices
    return [len(scores) - 1 - int(i) for i in order[:count]]


def _slimmed(groups: Sequence[ChannelGroup], module: nn.Module, share: float) -> Gone:
    """One threshold for the scales of the whole network; where there is no BatchNorm, nothing goes."""
    scales = [(one, norm_scales(one, module)) for one in groups]
    scales = [(one, scale) for one, scale in scales if scale.any()]
    if not scales:
        found = f"`{type(module).__name__}` has no BatchNorm whose scales could tell which channels matter."
        raise PairError(found, "Prune by filters or by activations: prune:l1=0.5, prune:act=0.5.")
    every = torch.cat([scale for _, scale in scales]).sort().values
    bar = every[min(int(share * len(every)), len(every) - 1)]
    found_ = []
    for one, scale in scales:
        most = one.count - width(one.count, _LEAST)
        found_.append((one, frozenset(_least(scale, min(int((scale < bar).sum()), most)))))
    return found_


# -- what is kept -------------------------------------------------------------------------------------------------


def _chosen(
    traced: Traced, choose: Callable[[Sequence[ChannelGroup]], Gone]
) -> tuple[tuple[ChannelSelection, ...], list[str]]:
    """What each layer keeps, and the layers that keep all that they make although some was to go."""
    free, whole = coupled(traced)
    gone = choose(free)
    if not _proved(traced, gone):
        sound = [one for one, _ in gone if _proved(traced, [(one, frozenset({0, one.count - 1}))])]
        whole += [path for one in free if one not in sound for path in one.makers(traced.module)]
        gone = choose(sound) if sound else []
        if not _proved(traced, gone):
            gone = []
    if not gone:
        found = f"no channels of `{type(traced.module).__name__}` can go without changing what the others mean."
        raise PairError(found, _ELSE)
    order = [path for path, _ in traced.module.named_modules()]
    return kept_of(traced.module, gone), sorted(whole, key=order.index)


def kept_of(module: nn.Module, gone: Gone) -> tuple[ChannelSelection, ...]:
    """What every layer keeps where these channels go."""
    lost: dict[tuple[str, bool], set[int]] = {}
    for one, channels in gone:
        for part in one.parts:
            lost.setdefault((part.layer, part.gives), set()).update(part.of(set(channels)))
    layers = dict.fromkeys([*(path for path, _ in layers_of(module)), *(path for path, _ in lost)])
    found = []
    for path in layers:
        layer = held(module, path)
        outputs, inputs = (
            tuple(i for i in range(extent) if i not in lost.get((path, gives), ()))
            for extent, gives in zip(extents(layer), (True, False), strict=True)
        )
        found.append(
            ChannelSelection(path, path, outputs, inputs if reads_all(layer) or _is_grouped(layer) else outputs)
        )
    return tuple(found)


def kept_beside(module: nn.Module, replaced: Mapping[str, nn.Sequential]) -> tuple[ChannelSelection, ...]:
    """All of every layer that is not replaced; of a replaced convolution the same channels, made in another way."""
    found = []
    for one in kept_of(module, ()):
        row = next((row for path, row in replaced.items() if f"{one.layer}.".startswith(f"{path}.")), None)
        if row is None or len(row):
            found.append(replace(one, exact=row is None))
    return tuple(found)


def _is_grouped(layer: nn.Module | nn.Parameter) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups != layer.out_channels


# -- the proof ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def _proved(traced: Traced, gone: Gone) -> bool:
    """Whether the network without these channels is the network that reads zeros of them."""
    base, images = _shaken(traced.module), traced.example.double()
    kept = kept_of(base, gone)
    try:
        answer = narrow(base, kept)(images)
    except Exception:  # whatever a network's own code says of other widths
        return False
    if any(isinstance(held(base, one.layer), nn.LayerNorm) and not _is_whole(base, one) for one in kept):
        return tuple(answer.shape) == (len(images), _classes(traced))  # a LayerNorm sees each channel that went
    for one in kept:
        layer = held(base, one.layer)
        if isinstance(layer, nn.Conv2d | nn.Linear) and reads_all(layer):
            layer.weight[:, sorted(set(range(extents(layer)[1])) - set(one.inputs))] = 0
    expected = base(images)
    return answer.shape == expected.shape and bool((answer - expected).abs().max() <= _NEARLY * expected.abs().max())


def _is_whole(module: nn.Module, kept: ChannelSelection) -> bool:
    return (len(kept.outputs), len(kept.inputs)) == extents(held(module, kept.layer))


def _classes(traced: Traced) -> int:
    answer = traced.nodes[-1].all_input_nodes[0]
    return traced.shapes[answer][1]


def _shaken(module: nn.Module) -> nn.Module:
    """A copy in float64 in which no scale hides what it is given: fresh networks scale whole branches by zero."""
    made = copy.deepcopy(module).double()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in made.named_parameters():
        if sum(extent > 1 for extent in parameter.shape) == 1 and not name.endswith("bias"):
            parameter.copy_(0.5 + torch.rand(parameter.shape, generator=generator))
    return made
