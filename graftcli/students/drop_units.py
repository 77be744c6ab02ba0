"""Shallower students: replace residual units by identities, chosen by name or by importance."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from graftcli.errors import PairError
from graftcli.models.cuts.positions import as_map
from graftcli.models.least_squares import solve
from graftcli.models.tracing.trace import Traced, holds_layers

_ADDITIONS = ("add", "iadd", "add_")
_ACTIVATIONS = ("relu", "relu_", "relu6", "silu", "gelu", "hardswish", "dropout", "clone", "contiguous")
_RIDGE = 1e-2  # relative to the mean of the diagonal; keeps the adapter of a dropped unit close to the identity
_MAX_ROWS = 4096  # spatial locations used to solve for that adapter


@dataclass(frozen=True)
class Droppable:
    """A residual unit that can become an identity."""

    path: str
    macs: int


def droppable_units(traced: Traced) -> dict[str, Droppable]:
    """All units that can become identities, by path, in order of execution."""
    return {
        path: Droppable(path, _macs(traced, path))
        for path in traced.returned
        if _why_not_droppable(traced, path) is None
    }


def innermost_units(units: dict[str, Droppable]) -> list[Droppable]:
    """The units that contain no other unit."""
    return [unit for path, unit in units.items() if not any(other.startswith(f"{path}.") for other in units)]


def check_units(traced: Traced, names: Sequence[str]) -> list[str]:
    """Check the named units and return the outermost; an error lists the units that can be dropped."""
    available = droppable_units(traced)
    faults = [f"`{name}` {_why_not_droppable(traced, name)}." for name in names if name not in available]
    if faults:
        raise PairError("\n".join(faults), _fix(available))
    return [name for name in names if not any(name.startswith(f"{other}.") for other in names)]


def least_important_units(traced: Traced, count: int, images: Tensor) -> list[str]:
    """The units whose removal increases the loss least per MAC saved; each unit is measured separately.

    As in PRACTISE, a bias-free 1x1 adapter, fitted by ridge regression towards the identity, replaces the dropped unit;
    the loss is the distance of the logits. MACs replace latency, which is not reproducible.
    """
    units = droppable_units(traced)
    candidates = innermost_units(units)
    if len(candidates) < count:
        available = f"{len(candidates)} residual unit{'s' * (len(candidates) != 1)}"
        raise PairError(
            f"`{type(traced.module).__name__}` has {available} to drop; the spec requires {count}.",
            _fix(units),
        )
    losses = _losses(traced.module, {unit.path: _channel_dim(traced, unit.path) for unit in candidates}, images)
    ranked = sorted(zip(candidates, losses, strict=True), key=lambda pair: pair[1] / max(1, pair[0].macs))
    chosen = {unit.path for unit, _ in ranked[:count]}
    return [unit.path for unit in candidates if unit.path in chosen]


def _fix(units: dict[str, Droppable]) -> str:
    names = ", ".join(unit.path for unit in innermost_units(units))
    return (
        f"Units that can be dropped: {names}." if names else "It has no such unit: choose prune:l1=0.5 or lowrank:0.5."
    )


# -- residual units ----------------------------------------------------------------------------------------------


def _inside(traced: Traced, path: str) -> list[fx.Node]:
    return [node for node in traced.nodes if f"{traced.paths[node]}.".startswith(f"{path}.") and node.op != "get_attr"]


def _macs(traced: Traced, path: str) -> int:
    return sum(traced.macs.get(node, 0) for node in _inside(traced, path))


def _why_not_droppable(traced: Traced, path: str) -> str | None:
    """Why a module cannot become an identity, or None."""
    if path not in traced.returned:
        known = path in dict(traced.module.named_modules())
        return "returns no single tensor" if known else "is not in the network"
    inside, last = _inside(traced, path), traced.returned[path]
    inside_set = set(inside)
    entries = {n for node in inside for n in node.all_input_nodes if n not in inside_set and n in traced.shapes}
    entries -= {n for n in entries if n.op == "get_attr"}
    if len(entries) != 1 or any(user not in inside_set for node in inside if node is not last for user in node.users):
        return "has more than one input or output tensor"
    entry = entries.pop()
    if traced.shapes[entry] != traced.shapes[last]:
        return f"changes the shape from {_format_shape(traced.shapes[entry])} to {_format_shape(traced.shapes[last])}"
    if not holds_layers(traced.module.get_submodule(path)) or not _adds(traced, entry, last, inside_set):
        return "is not a residual unit"
    return None


def _adds(traced: Traced, entry: fx.Node, last: fx.Node, inside: set[fx.Node]) -> bool:
    """Whether the input reaches the output through at least one addition, otherwise through activations only."""
    pending, seen = [(entry, False)], set[tuple[fx.Node, bool]]()
    while pending:
        node, added = pending.pop()
        if node is last and added:
            return True
        for user in node.users:
            name = getattr(user.target, "__name__", user.target)
            module = traced.module_of(user)
            passes = (
                next(module.parameters(), None) is None if module is not None else name in _ADDITIONS + _ACTIVATIONS
            )
            step = (user, added or (module is None and name in _ADDITIONS))
            if user in inside and passes and step not in seen:
                seen.add(step)
                pending.append(step)
    return False


def _format_shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape[1:]))


# -- importance of units -----------------------------------------------------------------------------------------


def _channel_dim(traced: Traced, path: str) -> int:
    """The channel dimension of a unit's output."""
    node = traced.returned[path]
    shape = traced.shapes[node]
    feature_map = as_map(traced, node, shape, traced.shapes[traced.source])
    return 1 if len(shape) == 4 and (feature_map is None or feature_map[0] == "NCHW") else len(shape) - 1


@torch.no_grad()
def _losses(module: nn.Module, channel_dims: Mapping[str, int], images: Tensor) -> Iterator[float]:
    """The relative squared error of the logits with one unit dropped, for each unit."""
    recorded: dict[str, tuple[Tensor, Tensor]] = {}

    def record(path: str, channel_dim: int) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            recorded[path] = _rows(inputs[0], channel_dim), _rows(output, channel_dim)

        return hook

    def replace(weight: Tensor, channel_dim: int) -> Callable[..., Tensor]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return (inputs[0].movedim(channel_dim, -1) @ weight.T).movedim(-1, channel_dim)

        return hook

    expected = _hooked(module, {path: record(path, channel_dim) for path, channel_dim in channel_dims.items()}, images)
    for path, channel_dim in channel_dims.items():
        source, target = recorded[path]
        weight = solve([(1.0, source, target)], torch.eye(source.shape[1]), _RIDGE).weight.to(images.dtype)
        logits = _hooked(module, {path: replace(weight, channel_dim)}, images)
        yield float((logits - expected).square().sum() / expected.square().sum())


def _hooked(module: nn.Module, hooks: dict[str, Callable[..., Any]], images: Tensor) -> Tensor:
    handles = [module.get_submodule(path).register_forward_hook(hook) for path, hook in hooks.items()]
    try:
        logits: Tensor = module(images)
    finally:
        for handle in handles:
            handle.remove()
    return logits


def _rows(value: Tensor, channel_dim: int) -> Tensor:
    """The channel vectors at evenly spaced locations; a copy, because units may modify their input."""
    rows = value.movedim(channel_dim, -1).flatten(0, -2)
    return rows[:: max(1, len(rows) // _MAX_ROWS)].double().clone()
