"""Shallower students: residual units become identities, by name, or those that are missed the least."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from graftcli.errors import PairError
from graftcli.models.cuts.positions import as_map
from graftcli.models.least_squares import solved
from graftcli.models.tracing.trace import Traced, holds_layers

_ADDING = ("add", "iadd", "add_")
_PASSING = ("relu", "relu_", "relu6", "silu", "gelu", "hardswish", "dropout", "clone", "contiguous")
_RIDGE = 1e-2  # of the mean of the diagonal: pulls the adapter of a dropped unit to the identity
_ROWS = 4096  # places of the maps on which that adapter is solved


@dataclass(frozen=True)
class Droppable:
    """A module whose output is its input plus something, in the same shape."""

    path: str
    macs: int


def units(traced: Traced) -> dict[str, Droppable]:
    """All units that can become identities, by path, in order."""
    return {path: Droppable(path, _work(traced, path)) for path in traced.returned if _fault(traced, path) is None}


def innermost(found: dict[str, Droppable]) -> list[Droppable]:
    """The units that hold no other."""
    return [unit for path, unit in found.items() if not any(other.startswith(f"{path}.") for other in found)]


def dropped(traced: Traced, names: Sequence[str]) -> list[str]:
    """The named units, the outermost where one lies in another; refused with those that can go."""
    found = units(traced)
    faults = [f"`{name}` {_fault(traced, name)}." for name in names if name not in found]
    if faults:
        raise PairError("\n".join(faults), _mend(found))
    return [name for name in names if not any(name.startswith(f"{other}.") for other in names)]


def least_missed(traced: Traced, count: int, images: Tensor) -> list[str]:
    """The units with the least loss for each multiply-add that goes, each dropped alone.

    In a dropped unit's place stands the bias-free 1x1 that comes nearest to it, pulled to the identity, as PRACTISE
    trains it; the loss is the distance of the logits. Work counts instead of time, which differs from run to run.
    """
    found = units(traced)
    candidates = innermost(found)
    if len(candidates) < count:
        had = f"{len(candidates)} residual unit{'s' * (len(candidates) != 1)}"
        raise PairError(f"`{type(traced.module).__name__}` has {had} to drop; {count} are asked for.", _mend(found))
    losses = _losses(traced.module, {unit.path: _channels(traced, unit.path) for unit in candidates}, images)
    ranked = sorted(zip(candidates, losses, strict=True), key=lambda both: both[1] / max(1, both[0].macs))
    chosen = {unit.path for unit, _ in ranked[:count]}
    return [unit.path for unit in candidates if unit.path in chosen]


def _mend(found: dict[str, Droppable]) -> str:
    names = ", ".join(unit.path for unit in innermost(found))
    return f"These can go: {names}." if names else "It has no unit that can: choose prune:l1=0.5 or lowrank:0.5."


# -- what a residual unit is --------------------------------------------------------------------------------------


def _inside(traced: Traced, path: str) -> list[fx.Node]:
    return [node for node in traced.nodes if f"{traced.paths[node]}.".startswith(f"{path}.") and node.op != "get_attr"]


def _work(traced: Traced, path: str) -> int:
    return sum(traced.macs.get(node, 0) for node in _inside(traced, path))


def _fault(traced: Traced, path: str) -> str | None:
    """Why a module cannot become an identity."""
    if path not in traced.returned:
        known = path in dict(traced.module.named_modules())
        return "gives no tensor of its own" if known else "is not in the network"
    inside, last = _inside(traced, path), traced.returned[path]
    own = set(inside)
    entries = {n for node in inside for n in node.all_input_nodes if n not in own and n in traced.shapes}
    entries -= {n for n in entries if n.op == "get_attr"}
    if len(entries) != 1 or any(user not in own for node in inside if node is not last for user in node.users):
        return "reads or gives more than one tensor"
    entry = entries.pop()
    if traced.shapes[entry] != traced.shapes[last]:
        return f"turns {_times(traced.shapes[entry])} into {_times(traced.shapes[last])}"
    if not holds_layers(traced.module.get_submodule(path)) or not _adds(traced, entry, last, own):
        return "does not add something to its input"
    return None


def _adds(traced: Traced, entry: fx.Node, last: fx.Node, own: set[fx.Node]) -> bool:
    """Whether the input reaches the output with nothing done to it but additions and activations."""
    todo, seen = [(entry, False)], set[tuple[fx.Node, bool]]()
    while todo:
        node, added = todo.pop()
        if node is last and added:
            return True
        for user in node.users:
            name = getattr(user.target, "__name__", user.target)
            module = traced.module_of(user)
            passes = next(module.parameters(), None) is None if module is not None else name in _ADDING + _PASSING
            step = (user, added or (module is None and name in _ADDING))
            if user in own and passes and step not in seen:
                seen.add(step)
                todo.append(step)
    return False


def _times(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape[1:]))


# -- how much a unit is missed ------------------------------------------------------------------------------------


def _channels(traced: Traced, path: str) -> int:
    """Which dimension of what a unit gives holds its channels."""
    node = traced.returned[path]
    shape = traced.shapes[node]
    seen = as_map(traced, node, shape, traced.shapes[traced.source])
    return 1 if len(shape) == 4 and (seen is None or seen[0] == "NCHW") else len(shape) - 1


@torch.no_grad()
def _losses(module: nn.Module, channels: Mapping[str, int], images: Tensor) -> Iterator[float]:
    """How far the logits are from the network's own, relative to their size, with each unit dropped alone."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def look(path: str, across: int) -> Callable[..., None]:
        def hook(_: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
            seen[path] = _rows(given[0], across), _rows(made, across)

        return hook

    def instead(weight: Tensor, across: int) -> Callable[..., Tensor]:
        def hook(_: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> Tensor:
            return (given[0].movedim(across, -1) @ weight.T).movedim(-1, across)

        return hook

    expected = _hooked(module, {path: look(path, across) for path, across in channels.items()}, images)
    for path, across in channels.items():
        source, goal = seen[path]
        weight = solved([(1.0, source, goal)], torch.eye(source.shape[1]), _RIDGE).weight.to(images.dtype)
        answer = _hooked(module, {path: instead(weight, across)}, images)
        yield float((answer - expected).square().sum() / expected.square().sum())


def _hooked(module: nn.Module, hooks: dict[str, Callable[..., Any]], images: Tensor) -> Tensor:
    handles = [module.get_submodule(path).register_forward_hook(hook) for path, hook in hooks.items()]
    try:
        answer: Tensor = module(images)
    finally:
        for handle in handles:
            handle.remove()
    return answer


def _rows(value: Tensor, across: int) -> Tensor:
    """The channels at some places of the maps, evenly taken; a copy, for units may write into their input."""
    every = value.movedim(across, -1).flatten(0, -2)
    return every[:: max(1, len(every) // _ROWS)].double().clone()
