"""What a student made from a teacher has kept of it, layer by layer.

narrow(teacher, kept)'s layer holds, number for number, kept_tensor(…) of the teacher's
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)
LAYERS = (nn.Conv2d, nn.Linear, nn.PReLU, *NORMS)  # what can be narrowed


@dataclass(frozen=True)
class ChannelSelection:
    """A layer of a made student: which channels of which of the teacher's layers it gives, and which it reads.

    Norms, depthwise convolutions and single parameters, as a scale of each channel, read the channels that they give.
    """

    layer: str
    teacher_layer: str
    outputs: tuple[int, ...]
    inputs: tuple[int, ...]
    exact: bool = True  # whether it began with the teacher's numbers; else it stands for that layer in another form


def extents(layer: nn.Module | nn.Parameter) -> tuple[int, int]:
    """How many channels a layer gives and reads."""
    if isinstance(layer, nn.Conv2d):
        return layer.out_channels, layer.in_channels
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features
    own = layer if isinstance(layer, nn.Parameter) else next(layer.parameters(recurse=False), None)
    stated = getattr(layer, "num_features", 1) if own is None else own.numel()
    return stated, stated


def layers_of(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers that can be narrowed, by path."""
    for path, layer in module.named_modules():
        if isinstance(layer, LAYERS):
            yield path, layer


def held(module: nn.Module, path: str) -> nn.Module | nn.Parameter:
    """The layer, or the single parameter, of this path."""
    scope, _, name = path.rpartition(".")
    found: nn.Module | nn.Parameter = getattr(module.get_submodule(scope), name)
    return found


def kept_tensor(name: str, tensor: Tensor, layer: nn.Module, kept: ChannelSelection) -> Tensor:
    """What of a tensor of the teacher's layer the student keeps; counters and single numbers stay as they are."""
    if not tensor.ndim or (tensor.numel() == 1 and isinstance(layer, nn.PReLU)):
        return tensor.clone()
    chosen = tensor[torch.tensor(kept.outputs)]
    if name == "weight" and reads_all(layer):
        chosen = chosen[:, torch.tensor(kept.inputs)]
    return chosen.clone()


def reads_all(layer: nn.Module | nn.Parameter) -> bool:
    """Whether each channel that a layer gives is made of all channels that it reads."""
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)


def narrow(module: nn.Module, kept: Iterable[ChannelSelection]) -> nn.Module:
    """A copy of the network in which each layer has nothing but what was kept of it."""
    made = copy.deepcopy(module)
    for one in kept:
        layer = held(made, one.teacher_layer)
        if one.exact and (len(one.outputs), len(one.inputs)) != extents(layer):
            if isinstance(layer, nn.Parameter):
                _narrow_parameter(made, layer, one)
            else:
                _narrow_layer(layer, one)
    return made


def _narrow_parameter(module: nn.Module, parameter: nn.Parameter, kept: ChannelSelection) -> None:
    scope, _, name = kept.layer.rpartition(".")
    dim = next(i for i, extent in enumerate(parameter.shape) if extent > 1)
    chosen = parameter.detach().index_select(dim, torch.tensor(kept.outputs))
    setattr(module.get_submodule(scope), name, nn.Parameter(chosen))


@torch.no_grad()
def _narrow_layer(layer: nn.Module, kept: ChannelSelection) -> None:
    for name, parameter in list(layer.named_parameters(recurse=False)):
        chosen = nn.Parameter(kept_tensor(name, parameter, layer, kept), parameter.requires_grad)
        setattr(layer, name, chosen)
    for name, buffer in list(layer.named_buffers(recurse=False)):
        setattr(layer, name, kept_tensor(name, buffer, layer, kept))
    gives, reads = len(kept.outputs), len(kept.inputs)
    said: dict[str, Any] = {"num_features": gives, "num_parameters": gives, "normalized_shape": (gives,)}
    if isinstance(layer, nn.Conv2d):
        said = {"out_channels": gives, "in_channels": reads, "groups": 1 if layer.groups == 1 else gives}
    elif isinstance(layer, nn.Linear):
        said = {"out_features": gives, "in_features": reads}
    for name, value in said.items():
        if hasattr(layer, name):
            setattr(layer, name, value)


# -- as JSON ------------------------------------------------------------------------------------------------------


def as_facts(kept: Sequence[ChannelSelection]) -> list[dict[str, Any]]:
    return [{**asdict(one), "outputs": _as_text(one.outputs), "inputs": _as_text(one.inputs)} for one in kept]


def from_facts(facts: Sequence[Mapping[str, Any]]) -> tuple[ChannelSelection, ...]:
    return tuple(
        ChannelSelection(
            fact["layer"],
            fact["teacher_layer"],
            _from_text(fact["outputs"]),
            _from_text(fact["inputs"]),
            fact["exact"],
        )
        for fact in facts
    )


def _as_text(indices: Sequence[int]) -> str:
    """0, 1, 2, 5 -> `0-2,5`: a line each would make the facts of a network as long as its weights."""
    breaks = [i for i, (a, b) in enumerate(pairwise(indices), 1) if b != a + 1]
    runs = [indices[start:stop] for start, stop in pairwise([0, *breaks, len(indices)])] if indices else []
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _from_text(text: str) -> tuple[int, ...]:
    found: list[int] = []
    for run in filter(None, text.split(",")):
        first, _, last = run.partition("-")
        found += range(int(first), int(last or first) + 1)
    return tuple(found)
