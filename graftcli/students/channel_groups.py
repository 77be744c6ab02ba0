"""Find the channels that can only be removed together, with torch-pruning's dependency graph."""

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, fx, nn

from graftcli.errors import PairError
from graftcli.models.channel_selection import LAYERS, channel_counts, layer_at
from graftcli.models.tracing.trace import Traced, holds_layers


@dataclass(frozen=True)
class GroupMember:
    """The coupled channels that one layer outputs or reads."""

    layer: str
    is_output: bool  # True for output channels, False for input channels
    channels: tuple[int, ...]
    indices: tuple[int, ...]  # index of each channel in the layer

    def indices_of(self, channels: set[int]) -> set[int]:
        """The indices of some channels in the layer."""
        return {index for channel, index in zip(self.channels, self.indices, strict=True) if channel in channels}


@dataclass(frozen=True)
class ChannelGroup:
    """Coupled channels: removing one removes it from every member."""

    count: int
    members: tuple[GroupMember, ...]

    def producers(self, module: nn.Module) -> list[str]:
        """The convolutions and linear layers that produce these channels."""
        layers = [member.layer for member in self.members if member.is_output]
        return [path for path in layers if isinstance(layer_at(module, path), nn.Conv2d | nn.Linear)]


Layer = nn.Module | nn.Parameter


class _Target(Protocol):
    """A layer in torch-pruning's graph."""

    module: Layer


class _Dependency(Protocol):
    """What happens to a layer when a channel is removed."""

    target: _Target
    handler: object


class _PruningItem(Protocol):
    """An item of torch-pruning's groups."""

    dep: _Dependency
    idxs: Sequence[int]
    root_idxs: Sequence[int]


def find_channel_groups(traced: Traced) -> tuple[list[ChannelGroup], list[str]]:
    """Find the groups that can be removed, in order of execution, and the producers of those that cannot.

    Both exclude the network's outputs and hidden layers of the head, which map vectors to vectors.
    """
    import torch_pruning  # takes seconds to import

    module = copy.deepcopy(traced.module).requires_grad_(True)
    paths = {id(layer): path for path, layer in module.named_modules()}
    paths |= {id(parameter): path for path, parameter in module.named_parameters()}
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about parameters outside layers and about unused layers
        try:
            graph = torch_pruning.DependencyGraph().build_dependency(module, traced.example.clone())
            groups = list(graph.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear]))
        except Exception as error:  # any exception of torch-pruning on the network's operations
            message = f"torch-pruning cannot follow the channels of `{type(module).__name__}`: {error}."
            raise PairError(
                message, "Choose drop:auto=2, lowrank:0.5, or a smaller network of the same family."
            ) from error
    channel_groups = [_group(group, paths, graph.is_out_channel_pruning_fn) for group in groups]
    order = {traced.paths[node]: i for i, node in enumerate(traced.nodes)}
    channel_groups.sort(
        key=lambda group: min(order.get(member.layer, len(order)) for member in group.members if member.is_output)
    )
    output_layers = _output_layers(traced)
    vectors = {traced.paths[node] for node, shape in traced.shapes.items() if len(shape) == 2}
    channel_groups = [group for group in channel_groups if not vectors.issuperset(group.producers(module))]
    inner = [
        group
        for group in channel_groups
        if not any(member.is_output and member.layer in output_layers for member in group.members)
    ]
    removable = [group for group in inner if _is_removable(group, module)]
    return removable, [path for group in inner if group not in removable for path in group.producers(module)]


def _group(group: Sequence[_PruningItem], paths: dict[int, str], is_output: Callable[[object], bool]) -> ChannelGroup:
    members = tuple(
        GroupMember(
            paths[id(item.dep.target.module)], is_output(item.dep.handler), tuple(item.root_idxs), tuple(item.idxs)
        )
        for item in group
        if id(item.dep.target.module) in paths and not _is_one_slope(item.dep.target.module)
    )
    return ChannelGroup(len(group[0].idxs), members)


def _is_one_slope(layer: object) -> bool:
    """Whether a layer is a PReLU with one slope for all channels."""
    return isinstance(layer, nn.PReLU) and layer.num_parameters == 1


def _is_removable(group: ChannelGroup, module: nn.Module) -> bool:
    """Whether all members can be narrowed and have the channels."""
    for member in group.members:
        layer = layer_at(module, member.layer)
        grouped = isinstance(layer, nn.Conv2d) and layer.groups not in (1, layer.out_channels)
        if grouped or not (isinstance(layer, LAYERS) or _is_scale(layer)):
            return False
        if max(member.indices) >= channel_counts(layer)[0 if member.is_output else 1]:
            return False
    return True


def _is_scale(layer: nn.Module | nn.Parameter) -> bool:
    """Whether a layer is a parameter with one value per channel."""
    return isinstance(layer, nn.Parameter) and sum(extent > 1 for extent in layer.shape) == 1


def _output_layers(traced: Traced) -> set[str]:
    """The layers that produce the network's outputs."""
    layers: set[str] = set()
    seen: set[fx.Node] = set()
    pending = list(traced.nodes[-1].all_input_nodes)
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        layer = traced.module_of(node)
        if layer is not None and (isinstance(layer, nn.Conv2d | nn.Linear) or holds_layers(layer)):
            inside = [path for path, _ in layer.named_modules()]
            layers |= {f"{node.target}.{path}".rstrip(".") for path in inside}
        else:
            pending += node.all_input_nodes
    return layers


# -- channel importance ------------------------------------------------------------------------------------------


@torch.no_grad()
def filter_norms(group: ChannelGroup, module: nn.Module) -> Tensor:
    """The sum of the L1 norms of each channel's filters."""

    def norms(_: str, layer: Layer) -> Tensor | None:
        return layer.weight.abs().flatten(1).sum(1) if isinstance(layer, nn.Conv2d | nn.Linear) else None

    return _sum_over_members(group, module, True, norms)


@torch.no_grad()
def norm_scales(group: ChannelGroup, module: nn.Module) -> Tensor:
    """The mean absolute BatchNorm scale of each channel; zeros without BatchNorm."""

    def scales(_: str, layer: Layer) -> Tensor | None:
        if not isinstance(layer, nn.modules.batchnorm._BatchNorm):
            return None
        return layer.weight.abs() if layer.weight is not None else torch.ones(layer.num_features)

    norms = nn.modules.batchnorm._BatchNorm
    count = sum(isinstance(layer_at(module, member.layer), norms) for member in group.members)
    return _sum_over_members(group, module, True, scales) / max(1, count)


@torch.no_grad()
def activation_energies(groups: Sequence[ChannelGroup], module: nn.Module, images: Tensor) -> list[Tensor]:
    """The mean square of each channel in the inputs of the layers that read it, summed over layers."""
    squares = dict(mean_squares(module, images))

    def energies(path: str, layer: Layer) -> Tensor | None:
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            return None
        return squares.get(path, torch.zeros(channel_counts(layer)[1]))

    return [_sum_over_members(group, module, False, energies) for group in groups]


def mean_squares(module: nn.Module, images: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The mean square of each input channel of each convolution and linear layer on the images."""
    squares: dict[str, Tensor] = {}
    share = 0.0  # of the images in the current batch

    def record(path: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            value = inputs[0].double().square()
            value = value.movedim(1, -1) if isinstance(layer, nn.Conv2d) else value
            squares[path] = squares.get(path, 0) + share * value.flatten(0, -2).mean(0)

        return hook

    layers = [(path, layer) for path, layer in module.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_pre_hook(record(path)) for path, layer in layers]
    try:
        for batch in images.split(16):
            share = len(batch) / len(images)
            module(batch)
    finally:
        for handle in handles:
            handle.remove()
    yield from squares.items()


def _sum_over_members(
    group: ChannelGroup, module: nn.Module, is_output: bool, measure: Callable[[str, Layer], Tensor | None]
) -> Tensor:
    """Sum a measure over all members for which it is not None, per channel."""
    total = torch.zeros(group.count, dtype=torch.float64)
    for member in group.members:
        values = measure(member.layer, layer_at(module, member.layer)) if member.is_output == is_output else None
        if values is not None:
            total.index_add_(0, torch.tensor(member.channels), values.double()[torch.tensor(member.indices)])
    return total
