"""One layer of a student made from the teacher: solved at once by least squares, or trained step by step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graftcli.graft.data.sampler import Sampler
from graftcli.graft.initialize.adapters import rows
from graftcli.graft.layerwise.layer_pairs import LayerPair, folded, put
from graftcli.graft.training.tasks import Task
from graftcli.graft.training.trainer import TaskStore, TrainContext, Trainer
from graftcli.models.least_squares import Equations, in_double, solved
from graftcli.recipe import Stage

_WIDEST = 8192  # channels of a layer whose inputs are solved: above it the equations alone fill the memory


@dataclass(frozen=True)
class LayerInputs:
    """What reaches a layer, in chunks: in the student and, with all its channels, in the teacher."""

    own: Sequence[Tensor]
    theirs: Sequence[Tensor]


def sides(layer: LayerPair, own: Tensor, theirs: Tensor, stage: Stage) -> Iterator[Equations]:
    """What the layer sees and what is wanted of it there, as `stage.input` says."""
    if stage.input == "student":
        yield 1.0, own, layer.wanted(theirs)
        return
    yield (1.0 if stage.mu is None else stage.mu), layer.kept_of(theirs), layer.wanted(theirs)
    if stage.mu is not None:
        yield 1 - stage.mu, own, layer.imitated(own)


# -- at once ------------------------------------------------------------------------------------------------------


def is_solvable(layer: LayerPair, stage: Stage) -> bool:
    """Whether the stage can treat the layer: what reads a row of convolutions is not what the teacher's layer reads."""
    return stage.solve != "inputs" or (not layer.row and len(layer.inputs) <= _WIDEST)


@torch.no_grad()
def solve(layer: LayerPair, seen: LayerInputs, stage: Stage) -> float:
    """Multiply the best 1x1 into the layer, behind it or before it. Returns the share that it misses."""
    assert stage.ridge is not None  # least squares has one
    if stage.solve == "outputs":
        weight, bias = folded(layer)
        behind = solved(_outputs(layer, seen, stage), torch.eye(len(weight), device=weight.device), stage.ridge)
        put(layer, torch.tensordot(behind.weight, weight, 1), behind.weight @ bias, seen.own)
        return behind.missed
    before = solved(_inputs(layer, seen, stage), _selection(layer), stage.ridge)
    weight = torch.einsum("oi...,ij->oj...", in_double(layer.theirs.weight[layer.outputs]), before.weight)
    own = layer.theirs.bias
    put(layer, weight, weight.new_zeros(len(weight)) if own is None else in_double(own[layer.outputs]), seen.own)
    return before.missed


def _outputs(layer: LayerPair, seen: LayerInputs, stage: Stage) -> Iterator[Equations]:
    """What the layer gives as it is, and what is wanted."""
    for own, theirs in zip(seen.own, seen.theirs, strict=True):
        for share, read, wanted in sides(layer, own, theirs, stage):
            yield share, rows(layer.run(read), layer.channel_dim), rows(wanted, layer.channel_dim)


def _inputs(layer: LayerPair, seen: LayerInputs, stage: Stage) -> Iterator[Equations]:
    """The channels that are left, and all that the teacher's layer reads; imitated, the others are zero."""
    dim = layer.channel_dim
    for own, theirs in zip(seen.own, seen.theirs, strict=True):
        if stage.input == "student":
            yield 1.0, rows(own, dim), rows(theirs, dim)
            continue
        yield (1.0 if stage.mu is None else stage.mu), rows(layer.kept_of(theirs), dim), rows(theirs, dim)
        if stage.mu is not None:
            yield 1 - stage.mu, rows(own, dim), rows(own, dim) @ _selection(layer).T.to(own)


def _selection(layer: LayerPair) -> Tensor:
    """[all channels, those that are left]: what puts each one where the teacher's layer reads it."""
    every = layer.theirs.weight.shape[1]
    return torch.eye(every, device=layer.theirs.weight.device)[:, layer.inputs]


# -- step by step -------------------------------------------------------------------------------------------------


class LayerTrainer(Trainer):
    """The layer on what was seen, its distance over that of nothing: the mean of the squares of what is wanted."""

    def __init__(self, task: Task, layer: LayerPair, seen: LayerInputs, context: TrainContext, unit: TaskStore) -> None:
        super().__init__(f"{task.name}, {layer.path}", task, layer.modules, context, unit)
        self.layer = layer
        with torch.no_grad():
            chunks = [sides(layer, own, theirs, task.stage) for own, theirs in zip(seen.own, seen.theirs, strict=True)]
            self.sides = [_joined(parts) for parts in zip(*chunks, strict=True)]
        _, _, wanted = self.sides[0]
        self.order = Sampler(len(wanted), self.batch, context.seed, f"{task.name}-{layer.path}")
        self.scale = max(float(wanted.square().mean()), 1e-12)

    def error(self) -> Tensor:
        index = self.order.at(self.train_state.step)
        total = torch.zeros((), device=self.sides[0][1].device)
        for share, read, wanted in self.sides:
            with self.context.precision.autocast():
                given = self.layer.run(read[index])
            total = total + share * (given.float() - wanted[index]).square().mean()
        return total / self.scale

    def show(self, step: int) -> object:
        _, read, _ = self.sides[-1]
        with torch.no_grad():
            return self.layer.run(read[self.order.at(step)])


def _joined(parts: Sequence[Equations]) -> Equations:
    return parts[0][0], torch.cat([read for _, read, _ in parts]), torch.cat([wanted for _, _, wanted in parts])
