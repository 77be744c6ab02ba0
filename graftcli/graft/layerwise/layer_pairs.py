"""Pairs each layer of a student that is derived from the teacher with the teacher layer that it replaces.

    folded(layer)  ->  (W, b)  ->  set_folded(layer, W', b')

reads a layer and its BatchNorm as one linear map, and writes another linear map into the same modules.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import Tensor, fx, nn

from graftcli.errors import PairError
from graftcli.graft.backend.frozen import conv_and_norm
from graftcli.graft.surgery.fold import Plain
from graftcli.graft.training.pieces import Pieces
from graftcli.models.channel_selection import ChannelSelection
from graftcli.models.cuts.foldability import plain_convolutions, plain_linears
from graftcli.models.derivation import is_derived
from graftcli.models.least_squares import to_float64
from graftcli.models.network import Network
from graftcli.recipe import Recipe


@dataclass(frozen=True)
class LayerPair:
    """A layer of the student, or the sequence of convolutions that replaces one, and the teacher's layer.

    The teacher's layer has its BatchNorm folded in if the student's layer has a BatchNorm.
    """

    path: str
    teacher_layer: str  # its path in the teacher
    entry: str  # the path of the first module of the student's layer
    preceding: tuple[nn.Module, ...]  # modules of the student's layer that run before `last`
    last: Plain  # the module whose weights are solved
    norm: nn.BatchNorm2d | None
    teacher: Plain
    outputs: Tensor  # the teacher's output channels that the student's layer has
    inputs: Tensor  # the same for input channels

    @property
    def modules(self) -> nn.ModuleList:
        """The modules that are trained."""
        return nn.ModuleList([*self.preceding, self.last, *([self.norm] if self.norm is not None else [])])

    @property
    def channel_dim(self) -> int:
        """The channel dimension of inputs and outputs."""
        return 1 if isinstance(self.last, nn.Conv2d) else -1

    def input_of_last(self, value: Tensor) -> Tensor:
        """Run the modules before `last` on the layer's input."""
        for module in self.preceding:
            value = module(value)
        return value

    def run(self, value: Tensor) -> Tensor:
        """Run the student's layer and its BatchNorm, without an activation."""
        value = self.last(self.input_of_last(value))
        return value if self.norm is None else nn.BatchNorm2d.forward(self.norm, value)

    def select_inputs(self, value: Tensor) -> Tensor:
        """Select the channels that the student's layer reads from the inputs of the teacher's layer."""
        return value.index_select(self.channel_dim, self.inputs.to(value.device))

    def target(self, value: Tensor) -> Tensor:
        """Run the teacher's layer on its own inputs, and select the output channels of the student's layer."""
        output: Tensor = self.teacher(value)
        return output.index_select(self.channel_dim, self.outputs.to(output.device))

    def imitation_target(self, value: Tensor) -> Tensor:
        """Run the teacher's layer on the student's features, with the removed channels as zeros."""
        weight, bias = self.teacher.weight[self.outputs][:, self.inputs], self.teacher.bias
        return _apply_layer(self.teacher, weight, None if bias is None else bias[self.outputs], value)


def _apply_layer(layer: Plain, weight: Tensor, bias: Tensor | None, value: Tensor) -> Tensor:
    """Run a layer with another weight and bias."""
    bare = copy.copy(layer)
    # plain tensors, because attributes of a module would have to be nn.Parameters
    bare._parameters = {"weight": weight, "bias": bias}  # type: ignore[dict-item]
    result: Tensor = bare(value)
    return result


# -- folding a layer and its BatchNorm ----------------------------------------------------------------------------


@torch.no_grad()
def folded(layer: LayerPair) -> tuple[Tensor, Tensor]:
    """Return W [out, in, …] and b in float64 with which `layer.last`, without a norm, computes `layer.run`."""
    weight = to_float64(layer.last.weight.detach())
    bias = weight.new_zeros(len(weight)) if layer.last.bias is None else to_float64(layer.last.bias.detach())
    norm = layer.norm
    if norm is None:
        return weight, bias
    assert norm.running_mean is not None and norm.running_var is not None  # ensured by conv_and_norm
    scale = to_float64(norm.weight.detach()) * (to_float64(norm.running_var) + norm.eps).rsqrt()
    shift = to_float64(norm.bias.detach()) - scale * to_float64(norm.running_mean)
    return scale.view(-1, *[1] * (weight.ndim - 1)) * weight, scale * bias + shift


@torch.no_grad()
def set_folded(layer: LayerPair, weight: Tensor, bias: Tensor, inputs: Sequence[Tensor]) -> None:
    """Write W and b into the modules of the layer, so that `layer.run` computes them.

    With a BatchNorm, the filters keep their norms, for which learning rates are chosen. The BatchNorm gets the
    statistics of its new input on `inputs`, and an affine map that undoes the normalisation; it can then be trained.
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
    growth = _filter_norms(weight) / _filter_norms(last.weight)
    last.weight.copy_(weight / growth.view(-1, *[1] * (weight.ndim - 1)))
    mean, variance = _moments(_apply_layer(last, last.weight, None, layer.input_of_last(value)) for value in inputs)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    norm.weight.copy_(growth * (to_float64(norm.running_var) + norm.eps).sqrt())
    norm.bias.copy_(bias + growth * to_float64(norm.running_mean))


def _filter_norms(weight: Tensor) -> Tensor:
    """Return the L2 norm of each filter, and 1 for filters of zeros."""
    norms = to_float64(weight.detach()).flatten(1).norm(dim=1)
    return torch.where(norms > 0, norms, 1.0)


def _moments(values: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the mean and variance of each channel, in float64."""
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for value in values:
        by_channel = to_float64(value).movedim(1, 0).flatten(1)
        count += by_channel.shape[1]
        total, squares = total + by_channel.sum(1).cpu(), squares + by_channel.square().sum(1).cpu()
    mean = total / count
    return mean, (squares / count - mean.square()).clamp_min(0)


def check_derived(recipe: Recipe, student: Network) -> None:
    """Raise if the recipe has a layer-wise stage and the student is not derived from the teacher."""
    stage = next((stage.name for stage in recipe.stages if stage.train == "layers"), None)
    if stage is not None and not is_derived(student):
        raise PairError(
            f"stage {stage} of recipe {recipe.name} trains layer by layer, and {student.name} is not derived from the"
            " teacher: its layers do not correspond to the teacher's.",
            "Use a student that is derived from the teacher, such as prune:l1=0.3 or teacher*0.75,"
            " or a recipe for any two networks: graft, mir, kd.",
        )


# -- finding pairs ------------------------------------------------------------------------------------------------


def layer_pairs(pieces: Pieces, number: int, selections: Mapping[str, ChannelSelection]) -> Iterator[LayerPair]:
    """Yield the layer pairs of piece `number`, counted from 1.

    Grouped convolutions and layers that are called more than once are left out: a 1x1 cannot be merged into them.
    """
    calls = [str(node.target) for piece in pieces.student for graph in _graphs(piece) for node in _calls(graph)]
    for graph, nodes, selection in _replacements(pieces.student[number - 1], selections):
        if all(calls.count(str(node.target)) == 1 for node in nodes):
            yield from _pair(graph, nodes, selection, pieces.teacher[number - 1])


def unpaired_layers(pieces: Pieces, number: int, selections: Mapping[str, ChannelSelection]) -> list[str]:
    """Return the convolutions and linear layers of piece `number` that `layer_pairs` leaves out."""
    paired = {layer.path for layer in layer_pairs(pieces, number, selections)}
    replacements = _replacements(pieces.student[number - 1], selections)
    paths = (
        selection.layer
        for graph, nodes, selection in replacements
        if isinstance(_module(graph, nodes[-1]), nn.Conv2d | nn.Linear)
    )
    return [path for path in paths if path not in paired]


def _replacements(
    piece: nn.Module, selections: Mapping[str, ChannelSelection]
) -> Iterator[tuple[fx.GraphModule, list[fx.Node], ChannelSelection]]:
    """Yield the calls in a piece that replace one teacher layer: of a layer, or of several in sequence."""
    for graph in _graphs(piece):
        calls = {str(node.target): node for node in _calls(graph)}
        for path, selection in selections.items():
            if nodes := [node for name, node in calls.items() if name == path or name.startswith(f"{path}.")]:
                yield graph, nodes, selection


def _module(graph: fx.GraphModule, node: fx.Node) -> nn.Module:
    return graph.get_submodule(str(node.target))


def _graphs(piece: nn.Module) -> list[fx.GraphModule]:
    return [module for module in piece.modules() if isinstance(module, fx.GraphModule)]


def _calls(graph: fx.GraphModule) -> Iterator[fx.Node]:
    return (node for node in graph.graph.nodes if node.op == "call_module")


def _pair(
    graph: fx.GraphModule, nodes: Sequence[fx.Node], selection: ChannelSelection, teacher_piece: nn.Module
) -> Iterator[LayerPair]:
    *preceding, last = (_module(graph, node) for node in nodes)
    path = selection.teacher_layer
    teacher_graph = next((g for g in _graphs(teacher_piece) if path in (str(n.target) for n in _calls(g))), None)
    if teacher_graph is None or not _is_plain(last):
        return
    teacher = teacher_graph.get_submodule(path)
    norm = _norm_of(graph, nodes[-1])
    if not _is_plain(teacher) or (norm is not None) != _has_folded_norm(teacher_graph, path):
        return
    channels = torch.tensor(selection.outputs), torch.tensor(selection.inputs)
    yield LayerPair(selection.layer, path, str(nodes[0].target), tuple(preceding), last, norm, teacher, *channels)


def _is_plain(layer: nn.Module) -> TypeGuard[Plain]:
    if type(layer) in plain_convolutions():
        return isinstance(layer, nn.Conv2d) and layer.groups == 1
    return type(layer) in plain_linears()


def _norm_of(graph: fx.GraphModule, node: fx.Node) -> nn.BatchNorm2d | None:
    match = next((conv_and_norm(graph, user) for user in node.users), None)
    return match[1] if match is not None and match[1].affine else None


def _has_folded_norm(graph: fx.GraphModule, path: str) -> bool:
    """Whether `frozen` folded a BatchNorm into this teacher layer: an nn.Sequential then takes its place."""
    node = next(n for n in _calls(graph) if str(n.target) == path)
    readers = (graph.get_submodule(str(user.target)) for user in node.users if user.op == "call_module")
    return any(isinstance(module, nn.Sequential) for module in readers)
