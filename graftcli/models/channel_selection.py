"""The channels that a derived student keeps of each layer of its teacher.

Each tensor in a layer of narrow(teacher, selections) equals selected_tensor(…) of the teacher's tensor, bit for bit.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from graftcli.models.origin import SelectionFacts

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)
LAYERS = (nn.Conv2d, nn.Linear, nn.PReLU, *NORMS)  # types that can be narrowed


@dataclass(frozen=True)
class ChannelSelection:
    """A layer of a derived student: the output and input channels it keeps of a teacher layer.

    For norms, depthwise convolutions and per-channel parameters, inputs equal outputs.
    """

    layer: str
    teacher_layer: str
    outputs: tuple[int, ...]
    inputs: tuple[int, ...]
    exact: bool = True  # whether it copies the teacher's weights; False if the layer is replaced by another form


def channel_counts(layer: nn.Module | nn.Parameter) -> tuple[int, int]:
    """The number of output and input channels of a layer."""
    if isinstance(layer, nn.Conv2d):
        return layer.out_channels, layer.in_channels
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features
    parameter = layer if isinstance(layer, nn.Parameter) else next(layer.parameters(recurse=False), None)
    channels = getattr(layer, "num_features", 1) if parameter is None else parameter.numel()
    return channels, channels


def narrowable_layers(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers that can be narrowed, with their paths."""
    for path, layer in module.named_modules():
        if isinstance(layer, LAYERS):
            yield path, layer


def layer_at(module: nn.Module, path: str) -> nn.Module | nn.Parameter:
    """The layer or parameter at a path."""
    scope, _, name = path.rpartition(".")
    layer: nn.Module | nn.Parameter = getattr(module.get_submodule(scope), name)
    return layer


def selected_tensor(name: str, tensor: Tensor, layer: nn.Module, selection: ChannelSelection) -> Tensor:
    """The part of a teacher tensor that the student keeps; scalars are kept unchanged."""
    if not tensor.ndim or (tensor.numel() == 1 and isinstance(layer, nn.PReLU)):
        return tensor.clone()
    selected = tensor[torch.tensor(selection.outputs)]
    if name == "weight" and reads_all(layer):
        selected = selected[:, torch.tensor(selection.inputs)]
    return selected.clone()


def reads_all(layer: nn.Module | nn.Parameter) -> bool:
    """Whether each output channel of a layer depends on all input channels."""
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)


def narrow(module: nn.Module, selections: Iterable[ChannelSelection]) -> nn.Module:
    """A copy of the network whose layers have only the selected channels."""
    copied = copy.deepcopy(module)
    for selection in selections:
        layer = layer_at(copied, selection.teacher_layer)
        if selection.exact and (len(selection.outputs), len(selection.inputs)) != channel_counts(layer):
            if isinstance(layer, nn.Parameter):
                _narrow_parameter(copied, layer, selection)
            else:
                _narrow_layer(layer, selection)
    return copied


def _narrow_parameter(module: nn.Module, parameter: nn.Parameter, selection: ChannelSelection) -> None:
    scope, _, name = selection.layer.rpartition(".")
    dim = next(i for i, extent in enumerate(parameter.shape) if extent > 1)
    selected = parameter.detach().index_select(dim, torch.tensor(selection.outputs))
    setattr(module.get_submodule(scope), name, nn.Parameter(selected))


@torch.no_grad()
def _narrow_layer(layer: nn.Module, selection: ChannelSelection) -> None:
    for name, parameter in list(layer.named_parameters(recurse=False)):
        selected = nn.Parameter(selected_tensor(name, parameter, layer, selection), parameter.requires_grad)
        setattr(layer, name, selected)
    for name, buffer in list(layer.named_buffers(recurse=False)):
        setattr(layer, name, selected_tensor(name, buffer, layer, selection))
    outputs, inputs = len(selection.outputs), len(selection.inputs)
    attributes: dict[str, object] = {"num_features": outputs, "num_parameters": outputs, "normalized_shape": (outputs,)}
    if isinstance(layer, nn.Conv2d):
        attributes = {"out_channels": outputs, "in_channels": inputs, "groups": 1 if layer.groups == 1 else outputs}
    elif isinstance(layer, nn.Linear):
        attributes = {"out_features": outputs, "in_features": inputs}
    for name, value in attributes.items():
        if hasattr(layer, name):
            setattr(layer, name, value)


# -- as JSON -----------------------------------------------------------------------------------------------------


def as_facts(selections: Sequence[ChannelSelection]) -> list[SelectionFacts]:
    """The selections as JSON."""
    return [
        {
            "layer": selection.layer,
            "teacher_layer": selection.teacher_layer,
            "outputs": _as_text(selection.outputs),
            "inputs": _as_text(selection.inputs),
            "exact": selection.exact,
        }
        for selection in selections
    ]


def from_facts(facts: Sequence[SelectionFacts]) -> tuple[ChannelSelection, ...]:
    """The selections that `as_facts` has written."""
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
    """0, 1, 2, 5 -> `0-2,5`, which keeps the JSON short."""
    breaks = [i for i, (a, b) in enumerate(pairwise(indices), 1) if b != a + 1]
    runs = [indices[start:stop] for start, stop in pairwise([0, *breaks, len(indices)])] if indices else []
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _from_text(text: str) -> tuple[int, ...]:
    indices: list[int] = []
    for run in filter(None, text.split(",")):
        first, _, last = run.partition("-")
        indices += range(int(first), int(last or first) + 1)
    return tuple(indices)
