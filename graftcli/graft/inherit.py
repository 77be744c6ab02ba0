"""A student's first weights out of the teacher: whole units at even depth, and of wider layers the first channels.

Two modules correspond where their place in the module tree does. In a row of units of one kind the student's first and
last correspond to the teacher's first and last, the others at even distance between.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from graftcli.nets.plan import Side


@torch.no_grad()
def inherit(teacher: Side, student: Side) -> int:
    """Copy what fits from the teacher into the student; returns how many of the student's parameters were given."""
    given = 0
    for ours, theirs in _pairs(teacher.network.module, student.network.module):
        if not _fits(ours, theirs):
            continue
        for name, target in _tensors(theirs):
            source = dict(_tensors(ours)).get(name)
            if source is None or source.ndim != target.ndim:
                continue
            target.copy_(source[tuple(slice(extent) for extent in target.shape)])
            given += target.numel() if isinstance(target, nn.Parameter) else 0
    return given


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


def _pairs(ours: nn.Module, theirs: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """The modules that correspond, from the top of both trees down."""
    yield ours, theirs
    children, others = dict(ours.named_children()), dict(theirs.named_children())
    if _is_row(ours) and _is_row(theirs) and len(children) != len(others):
        sources = list(children.values())
        for i, child in enumerate(others.values()):
            yield from _pairs(sources[_even(i, len(others), len(sources))], child)
        return
    for name, child in others.items():
        if name in children:
            yield from _pairs(children[name], child)


def _is_row(module: nn.Module) -> bool:
    """Whether a container holds units of one kind, one after the other."""
    kinds = {type(child) for child in module.children()}
    return isinstance(module, nn.Sequential | nn.ModuleList) and len(kinds) == 1 and len(list(module.children())) > 0


def _even(i: int, count: int, of: int) -> int:
    return round(i * (of - 1) / (count - 1)) if count > 1 else 0
