"""A student's first weights out of the teacher: whole units at even depth, and of wider layers what matters most.

Two modules correspond where their place in the module tree does. In a row of units of one kind the student's first and
last correspond to the teacher's first and last, the others at even distance between. Of a wider layer the student takes
a subset of the channels, and each layer that reads them takes the same subset (`matched`).
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from graftcli.graft.initialize.channel_matching import filled, matched, pairs
from graftcli.graft.initialize.importance import importance
from graftcli.models.channel_selection import ChannelSelection, reads_all
from graftcli.models.channels.groups import channels
from graftcli.models.cuts.plan import Side


@torch.no_grad()
def inherit(teacher: Side, student: Side, images: Tensor) -> tuple[ChannelSelection, ...]:
    """Copy what fits from the teacher into the student; returns which of its channels each layer was given.

    On the images the teacher shows which of its channels matter.
    """
    ours, theirs = teacher.network.module, student.network.module
    layers = {path: source for source, path in pairs(ours, theirs)}
    names = channels(teacher.traced)
    kept = matched(names, channels(student.traced), layers, importance(names, ours, images))
    known = {one.layer: one for one in kept}
    for path, source in layers.items():
        given = ours.get_submodule(source)
        module = theirs.get_submodule(path)
        if _fits(given, module):
            _copy(given, module, path, known)
    return kept


def _copy(ours: nn.Module, theirs: nn.Module, path: str, known: dict[str, ChannelSelection]) -> None:
    sources = dict(_tensors(ours))
    for name, target in _tensors(theirs):
        kept = known.get(path) or known.get(f"{path}.{name}".lstrip("."))
        source = sources[name]
        if kept is None:
            target.copy_(source[tuple(slice(extent) for extent in target.shape)])
        elif name == "weight" and isinstance(ours, nn.Conv2d) and isinstance(theirs, nn.Conv2d):
            target.copy_(_kernels(ours, theirs, kept))
        elif name == "weight" and reads_all(theirs):
            target.copy_(_chosen(_chosen(source, 0, kept.outputs), 1, kept.inputs))
        elif source.numel() > 1:
            dim = next(dim for dim, extent in enumerate(source.shape) if extent > 1)
            target.copy_(_chosen(source, dim, kept.outputs))
        else:
            target.copy_(source)


def _chosen(source: Tensor, dim: int, places: Sequence[int]) -> Tensor:
    return source.index_select(dim, torch.tensor(places, device=source.device))


def _kernels(ours: nn.Conv2d, theirs: nn.Conv2d, kept: ChannelSelection) -> Tensor:
    """Of each kept output the kernels of the kept inputs; in groups, those that lie in its group."""
    if ours.groups == theirs.groups == 1:
        return _chosen(_chosen(ours.weight, 0, kept.outputs), 1, kept.inputs)
    width, among = theirs.weight.shape[1], ours.weight.shape[1]
    rows = []
    for nth, place in enumerate(kept.outputs):
        group = nth * theirs.groups // theirs.out_channels, place * ours.groups // ours.out_channels
        inputs = [one - group[1] * among for one in kept.inputs[group[0] * width :][:width]]
        rows.append(
            _chosen(ours.weight[place], 0, filled([one if 0 <= one < among else None for one in inputs], among))
        )
    return torch.stack(rows)


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)


def _fits(ours: nn.Module, theirs: nn.Module) -> bool:
    """One kind of layer, with one kernel, the teacher's being at least as wide."""
    if type(ours) is not type(theirs):
        return False
    sources = dict(_tensors(ours))
    return all(
        name in sources
        and sources[name].ndim == target.ndim
        and sources[name].shape[2:] == target.shape[2:]
        and all(a >= b for a, b in zip(sources[name].shape, target.shape, strict=True))
        for name, target in _tensors(theirs)
    )
