"""The layers of a student made from the teacher, each beside the teacher's layer that it stands for.

    folded(layer)  ->  (W, b)  ->  put(layer, W', b')

reads a layer with its BatchNorm as one linear map, and writes another one into the same modules.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, fx, nn

from graftcli.errors import PairError
from graftcli.graft.backend.frozen import conv_and_norm
from graftcli.graft.surgery.fold import Plain
from graftcli.graft.training.tasks import Pieces
from graftcli.models.channel_selection import ChannelSelection
from graftcli.models.cuts.foldability import plain_convolutions, plain_linears
from graftcli.models.derivation import is_derived
from graftcli.models.least_squares import in_double
from graftcli.models.network import Network
from graftcli.recipe import Recipe


@dataclass(frozen=True)
class LayerPair:
    """A convolution or linear layer of the student, or the row of convolutions that stands for one.

    `theirs` is the teacher's, its BatchNorm folded in where the student's layer has one; of its outputs and inputs the
    student's layer has these.
    """

    path: str
    teacher_layer: str
    entry: str  # the first module of it that is called
    row: tuple[nn.Module, ...]  # what runs before the last, which is solved
    last: Plain
    norm: nn.BatchNorm2d | None
    theirs: Plain
    outputs: Tensor
    inputs: Tensor

    @property
    def modules(self) -> nn.ModuleList:
        """What of it is trained."""
        return nn.ModuleList([*self.row, self.last, *([self.norm] if self.norm is not None else [])])

    @property
    def channel_dim(self) -> int:
        """Of what it reads and gives."""
        return 1 if isinstance(self.last, nn.Conv2d) else -1

    def before(self, value: Tensor) -> Tensor:
        """What reaches the last of the row."""
        for module in self.row:
            value = module(value)
        return value

    def run(self, value: Tensor) -> Tensor:
        """The layer with its norm, before anything nonlinear."""
        value = self.last(self.before(value))
        return value if self.norm is None else nn.BatchNorm2d.forward(self.norm, value)

    def kept_of(self, value: Tensor) -> Tensor:
        """Of what the teacher's layer reads, the channels that this one does."""
        return value.index_select(self.channel_dim, self.inputs.to(value.device))

    def wanted(self, value: Tensor) -> Tensor:
        """What the teacher's layer gives, of the channels that this one has."""
        given: Tensor = self.theirs(value)
        return given.index_select(self.channel_dim, self.outputs.to(given.device))

    def imitated(self, value: Tensor) -> Tensor:
        """What the teacher's layer makes of the student's own features, the channels that went being zero."""
        weight = self.theirs.weight[self.outputs][:, self.inputs]
        return applied(self.theirs, weight, None if self.theirs.bias is None else self.theirs.bias[self.outputs], value)


def applied(layer: Plain, weight: Tensor, bias: Tensor | None, value: Tensor) -> Tensor:
    """What a layer with this weight and bias would give."""
    bare = copy.copy(layer)
    held: dict[str, Any] = {"weight": weight, "bias": bias}
    bare._parameters = held  # plain tensors, which no layer lets itself be given; and a bias where it has none
    result: Tensor = bare(value)
    return result


# -- a layer as one linear map ------------------------------------------------------------------------------------


@torch.no_grad()
def folded(layer: LayerPair) -> tuple[Tensor, Tensor]:
    """W [out, in, …] and b in float64, with which the last of the row gives what layer.run does."""
    weight = in_double(layer.last.weight.detach())
    bias = weight.new_zeros(len(weight)) if layer.last.bias is None else in_double(layer.last.bias.detach())
    norm = layer.norm
    if norm is None:
        return weight, bias
    assert norm.running_mean is not None and norm.running_var is not None  # without them it is no layer's norm
    scale = in_double(norm.weight.detach()) * (in_double(norm.running_var) + norm.eps).rsqrt()
    shift = in_double(norm.bias.detach()) - scale * in_double(norm.running_mean)
    return scale.view(-1, *[1] * (weight.ndim - 1)) * weight, scale * bias + shift


@torch.no_grad()
def put(layer: LayerPair, weight: Tensor, bias: Tensor, seen: Sequence[Tensor]) -> None:
    """Make layer.run what W and b say.

    Where there is a norm, the layer's filters stay as large as they are, for rates are meant for weights of that size;
    and the norm gets the statistics of what it now reads, with a scale and a shift that undo them: it can be trained.
    """
    norm, last = layer.norm, layer.last
    if norm is None:
        last.weight.copy_(weight)
        if last.bias is not None:
            last.bias.copy_(bias)
        return
    if last.bias is not None:
        last.bias.zero_()
    assert norm.running_mean is not None and norm.running_var is not None
    grown = _sizes(weight) / _sizes(last.weight)
    last.weight.copy_(weight / grown.view(-1, *[1] * (weight.ndim - 1)))
    mean, variance = _moments(applied(last, last.weight, None, layer.before(value)) for value in seen)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    norm.weight.copy_(grown * (in_double(norm.running_var) + norm.eps).sqrt())
    norm.bias.copy_(bias + grown * in_double(norm.running_mean))


def _sizes(weight: Tensor) -> Tensor:
    """How large each filter is; one of zeros counts as one of ones."""
    sizes = in_double(weight.detach()).flatten(1).norm(dim=1)
    return torch.where(sizes > 0, sizes, 1.0)


def _moments(values: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel of maps, in float64."""
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for value in values:
        by_channel = in_double(value).movedim(1, 0).flatten(1)
        count += by_channel.shape[1]
        total, squares = total + by_channel.sum(1).cpu(), squares + by_channel.square().sum(1).cpu()
    mean = total / count
    return mean, (squares / count - mean.square()).clamp_min(0)


def check_made(recipe: Recipe, student: Network) -> None:
    """A stage that goes from layer to layer needs a student whose layers are the teacher's."""
    stage = next((stage.name for stage in recipe.stages if stage.train == "layers"), None)
    if stage is not None and not is_derived(student):
        raise PairError(
            f"recipe {recipe.name} goes from layer to layer in stage {stage}, and {student.name} is a network"
            " of its own: its layers stand for none of the teacher's.",
            "Name a student that is made from the teacher, as prune:l1=0.3 or teacher*0.75;"
            " or take a recipe that joins any two networks: graft, mir, kd.",
        )


# -- which layers there are ---------------------------------------------------------------------------------------


def layers_of(pieces: Pieces, number: int, kept: Mapping[str, ChannelSelection]) -> Iterator[LayerPair]:
    """The layers of piece `number`, from 1, that have their like in the teacher's piece.

    Layers in groups are not among them, nor those that are called more than once: no 1x1 beside them vanishes.
    """
    calls = [str(node.target) for piece in pieces.student for graph in _graphs(piece) for node in _calls(graph)]
    for graph, row, one in _rows(pieces.student[number - 1], kept):
        if all(calls.count(str(node.target)) == 1 for node in row):
            yield from _layer(graph, row, one, pieces.teacher[number - 1])


def passed_over(pieces: Pieces, number: int, kept: Mapping[str, ChannelSelection]) -> list[str]:
    """The convolutions and linear layers of piece `number` that stand for the teacher's, and are not among them."""
    found = {layer.path for layer in layers_of(pieces, number, kept)}
    rows = _rows(pieces.student[number - 1], kept)
    every = (one.layer for graph, row, one in rows if isinstance(_module(graph, row[-1]), nn.Conv2d | nn.Linear))
    return [path for path in every if path not in found]


def _rows(
    piece: nn.Module, kept: Mapping[str, ChannelSelection]
) -> Iterator[tuple[fx.GraphModule, list[fx.Node], ChannelSelection]]:
    """What stands in a piece for one of the teacher's layers: a layer, or a row of them."""
    for graph in _graphs(piece):
        nodes = {str(node.target): node for node in _calls(graph)}
        for path, one in kept.items():
            if row := [node for name, node in nodes.items() if name == path or name.startswith(f"{path}.")]:
                yield graph, row, one


def _module(graph: fx.GraphModule, node: fx.Node) -> nn.Module:
    return graph.get_submodule(str(node.target))


def _graphs(piece: nn.Module) -> list[fx.GraphModule]:
    return [module for module in piece.modules() if isinstance(module, fx.GraphModule)]


def _calls(graph: fx.GraphModule) -> Iterator[fx.Node]:
    return (node for node in graph.graph.nodes if node.op == "call_module")


def _layer(
    graph: fx.GraphModule, row: Sequence[fx.Node], one: ChannelSelection, teacher: nn.Module
) -> Iterator[LayerPair]:
    *before, last = (_module(graph, node) for node in row)
    found = next((g for g in _graphs(teacher) if one.teacher_layer in map(str, (n.target for n in _calls(g)))), None)
    if found is None or not _is_plain(last):
        return
    theirs = found.get_submodule(one.teacher_layer)
    norm = _norm_of(graph, row[-1])
    if not _is_plain(theirs) or (norm is not None) != _is_folded(found, one.teacher_layer):
        return
    chosen = torch.tensor(one.outputs), torch.tensor(one.inputs)
    yield LayerPair(one.layer, one.teacher_layer, str(row[0].target), tuple(before), last, norm, theirs, *chosen)


def _is_plain(layer: nn.Module) -> TypeGuard[Plain]:
    if type(layer) in plain_convolutions():
        return isinstance(layer, nn.Conv2d) and layer.groups == 1
    return type(layer) in plain_linears()


def _norm_of(graph: fx.GraphModule, node: fx.Node) -> nn.BatchNorm2d | None:
    found = next((conv_and_norm(graph, user) for user in node.users), None)
    return found[1] if found is not None and found[1].affine else None


def _is_folded(graph: fx.GraphModule, path: str) -> bool:
    """Whether the BatchNorm behind a layer of the frozen teacher went into it: what is left of it is a row."""
    node = next(n for n in _calls(graph) if str(n.target) == path)
    behind = (graph.get_submodule(str(user.target)) for user in node.users if user.op == "call_module")
    return any(isinstance(module, nn.Sequential) for module in behind)
