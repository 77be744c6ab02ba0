"""Which channels of a network can only go together, by torch-pruning's graph of dependencies."""

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from graftcli.errors import PairError
from graftcli.models.channel_selection import LAYERS, extents, held
from graftcli.models.tracing.trace import Traced, holds_layers


@dataclass(frozen=True)
class GroupMember:
    """What one layer gives or reads of coupled channels."""

    layer: str
    gives: bool  # or reads
    channels: tuple[int, ...]
    places: tuple[int, ...]  # where each of these channels lies in the layer

    def of(self, channels: set[int]) -> set[int]:
        """The places of some channels."""
        return {place for channel, place in zip(self.channels, self.places, strict=True) if channel in channels}


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that are added to each other, or carry on one another: where one goes, it goes in every part."""

    count: int
    parts: tuple[GroupMember, ...]

    def makers(self, module: nn.Module) -> list[str]:
        """The layers that make these channels."""
        layers = [part.layer for part in self.parts if part.gives]
        return [path for path in layers if isinstance(held(module, path), nn.Conv2d | nn.Linear)]


def coupled(traced: Traced) -> tuple[list[ChannelGroup], list[str]]:
    """All channels that may go, in the order in which the network makes them; the makers of those that have to stay.

    In neither are the answer's own channels and those of a vector made of vectors, as a head's hidden layer makes them.
    """
    import torch_pruning  # takes seconds to import

    module = copy.deepcopy(traced.module).requires_grad_(True)
    paths = {id(layer): path for path, layer in module.named_modules()}
    paths |= {id(parameter): path for path, parameter in module.named_parameters()}
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of parameters outside layers, and of layers that do not run
        try:
            graph = torch_pruning.DependencyGraph().build_dependency(module, traced.example.clone())
            groups = list(graph.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear]))
        except Exception as error:  # whatever stops it at a network's own operations
            said = f"torch-pruning cannot follow the channels of `{type(module).__name__}`: {error}."
            raise PairError(
                said, "Choose drop:auto=2, lowrank:0.5, or a smaller network of the same family."
            ) from error
    found = [_coupled(group, paths, graph.is_out_channel_pruning_fn) for group in groups]
    order = {traced.paths[node]: i for i, node in enumerate(traced.nodes)}
    found.sort(key=lambda one: min(order.get(part.layer, len(order)) for part in one.parts if part.gives))
    last = _answering(traced)
    vectors = {traced.paths[node] for node, shape in traced.shapes.items() if len(shape) == 2}
    found = [one for one in found if not vectors.issuperset(one.makers(module))]
    inner = [one for one in found if not any(part.gives and part.layer in last for part in one.parts)]
    free = [one for one in inner if _can_go(one, module)]
    return free, [path for one in inner if one not in free for path in one.makers(module)]


def _coupled(group: Any, paths: dict[int, str], gives: Callable[[Any], bool]) -> ChannelGroup:
    parts = tuple(
        GroupMember(paths[id(item.dep.target.module)], gives(item.dep.handler), tuple(item.root_idxs), tuple(item.idxs))
        for item in group
        if id(item.dep.target.module) in paths and not _is_one_slope(item.dep.target.module)
    )
    return ChannelGroup(len(group[0].idxs), parts)


def _is_one_slope(layer: object) -> bool:
    """Whether this is a PReLU with one number for all channels."""
    return isinstance(layer, nn.PReLU) and layer.num_parameters == 1


def _can_go(one: ChannelGroup, module: nn.Module) -> bool:
    """Whether all parts are layers that can be narrowed, and the channels lie inside of them."""
    for part in one.parts:
        layer = held(module, part.layer)
        grouped = isinstance(layer, nn.Conv2d) and layer.groups not in (1, layer.out_channels)
        if grouped or not (isinstance(layer, LAYERS) or _is_scale(layer)):
            return False
        if max(part.places) >= extents(layer)[0 if part.gives else 1]:
            return False
    return True


def _is_scale(layer: nn.Module | nn.Parameter) -> bool:
    """Whether this is a parameter of one number a channel."""
    return isinstance(layer, nn.Parameter) and sum(extent > 1 for extent in layer.shape) == 1


def _answering(traced: Traced) -> set[str]:
    """The layers of which the answer's own channels come."""
    found: set[str] = set()
    seen: set[fx.Node] = set()
    todo = list(traced.nodes[-1].all_input_nodes)
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        layer = traced.module_of(node)
        if layer is not None and (isinstance(layer, nn.Conv2d | nn.Linear) or holds_layers(layer)):
            inside = [path for path, _ in layer.named_modules()]
            found |= {f"{node.target}.{path}".rstrip(".") for path in inside}
        else:
            todo += node.all_input_nodes
    return found


# -- how much channels matter -------------------------------------------------------------------------------------


@torch.no_grad()
def filter_sizes(one: ChannelGroup, module: nn.Module) -> Tensor:
    """Of each channel the L1 norms of the filters that make it, added up."""
    return _summed(one, module, True, nn.Conv2d | nn.Linear, lambda _, layer: layer.weight.abs().flatten(1).sum(1))


@torch.no_grad()
def norm_scales(one: ChannelGroup, module: nn.Module) -> Tensor:
    """Of each channel the mean size of its BatchNorm scales; without BatchNorm all zeros."""
    norms = nn.modules.batchnorm._BatchNorm
    count = sum(isinstance(held(module, part.layer), norms) for part in one.parts)
    return _summed(one, module, True, norms, lambda _, layer: _scale(layer)) / max(1, count)


def _scale(layer: Any) -> Tensor:
    scale: Tensor = layer.weight.abs() if layer.weight is not None else torch.ones(layer.num_features)
    return scale


@torch.no_grad()
def energies(groups: Sequence[ChannelGroup], module: nn.Module, images: Tensor) -> list[Tensor]:
    """Of each channel the mean square of what its readers see of it, added up over them."""
    read = dict(mean_squares(module, images))
    kinds = nn.Conv2d | nn.Linear
    return [
        _summed(one, module, False, kinds, lambda path, layer: read.get(path, torch.zeros(extents(layer)[1])))
        for one in groups
    ]


def mean_squares(module: nn.Module, images: Tensor) -> Iterator[tuple[str, Tensor]]:
    """What each convolution and linear layer reads on the images: the mean square of each channel."""
    seen: dict[str, Tensor] = {}
    share = 0.0  # of the images in the batch at hand

    def look(path: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
            value = given[0].double().square()
            value = value.movedim(1, -1) if isinstance(layer, nn.Conv2d) else value
            seen[path] = seen.get(path, 0) + share * value.flatten(0, -2).mean(0)

        return hook

    layers = [(path, layer) for path, layer in module.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_pre_hook(look(path)) for path, layer in layers]
    try:
        for some in images.split(16):
            share = len(some) / len(images)
            module(some)
    finally:
        for handle in handles:
            handle.remove()
    yield from seen.items()


def _summed(
    one: ChannelGroup, module: nn.Module, gives: bool, kinds: Any, measure: Callable[[str, Any], Tensor]
) -> Tensor:
    """The measures of all parts of these kinds, each added to the channels that its places stand for."""
    total = torch.zeros(one.count, dtype=torch.float64)
    for part in one.parts:
        layer = held(module, part.layer)
        if part.gives == gives and isinstance(layer, kinds):
            values = measure(part.layer, layer).double()
            total.index_add_(0, torch.tensor(part.channels), values[torch.tensor(part.places)])
    return total
