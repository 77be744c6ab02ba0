"""One layer of a student made from the teacher: solved at once by least squares, or trained step by step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graftcli.graft.adapters import rows
from graftcli.graft.counterparts import Layer, folded, put
from graftcli.graft.order import Order
from graftcli.graft.stages import Task
from graftcli.graft.training import Material, Training, Unit
from graftcli.nets.least_squares import in_double, solved
from graftcli.recipe import Stage

_ENOUGH, _ROWS_A_COLUMN = 2**14, 8  # places at which a whole layer is solved, at least and for each of its inputs
_WIDEST = 8192  # channels of a layer whose inputs are solved: above it the equations alone fill the memory


@dataclass(frozen=True)
class Seen:
    """What reaches a layer, in chunks: in the student and, with all its channels, in the teacher."""

    own: Sequence[Tensor]
    theirs: Sequence[Tensor]


Side = tuple[float, Tensor, Tensor]  # how much it counts, what the layer reads, what it is to make of it


def sides(layer: Layer, own: Tensor, theirs: Tensor, stage: Stage) -> Iterator[Side]:
    """What the layer sees and what is wanted of it there, as `stage.input` says."""
    if stage.input == "student":
        yield 1.0, own, layer.wanted(theirs)
        return
    yield (1.0 if stage.mu is None else stage.mu), layer.kept_of(theirs), layer.wanted(theirs)
    if stage.mu is not None:
        yield 1 - stage.mu, own, layer.imitated(own)


# -- at once ------------------------------------------------------------------------------------------------------


def is_solvable_whole(layer: Layer) -> bool:
    """Whether what the layer sees at a place can be laid out as a row."""
    last = layer.last
    if layer.last.weight[0].numel() > _WIDEST:
        return False
    return not isinstance(last, nn.Conv2d) or (last.padding_mode == "zeros" and not isinstance(last.padding, str))


def is_solvable(layer: Layer, stage: Stage) -> bool:
    """Whether the stage can treat the layer: what reads a row of convolutions is not what the teacher's layer reads."""
    return stage.solve != "inputs" or (not layer.row and len(layer.inputs) <= _WIDEST)


@torch.no_grad()
def solve(layer: Layer, seen: Seen, stage: Stage) -> float:
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


@torch.no_grad()
def solve_whole(layer: Layer, seen: Seen, ridge: float) -> None:
    """Give the layer the weights, and the bias if it has one, that come nearest to what the teacher's layer gives."""
    weight, bias = folded(layer)
    has_bias = layer.norm is not None or layer.last.bias is not None
    start = torch.cat([weight.flatten(1), bias[:, None]], 1) if has_bias else weight.flatten(1)
    found = solved(_patches(layer, seen, start.shape[1], has_bias), start, ridge).weight
    put(layer, found[:, : weight[0].numel()].reshape(weight.shape), found[:, -1] if has_bias else bias, seen.own)


def _patches(layer: Layer, seen: Seen, columns: int, has_bias: bool) -> Iterator[Side]:
    """What the layer sees at places drawn at random, and what the teacher's gives there."""
    places = torch.Generator().manual_seed(0)
    each = -(-max(_ENOUGH, _ROWS_A_COLUMN * columns) // sum(map(len, seen.own)))
    for chunk, their_chunk in zip(seen.own, seen.theirs, strict=True):
        for own, theirs in zip(chunk.split(1), their_chunk.split(1), strict=True):
            read, wanted = layer.before(own), layer.wanted(theirs)
            if isinstance(layer.last, nn.Conv2d):
                conv = layer.last
                padding = cast(tuple[int, int], conv.padding)
                read = F.unfold(read, conv.kernel_size, conv.dilation, padding, conv.stride).movedim(1, 2)
                wanted = wanted.flatten(2).movedim(1, 2)
            given, goal = read.flatten(0, -2), wanted.flatten(0, -2)
            chosen = torch.randperm(len(given), generator=places)[:each].to(given.device)
            given = given[chosen]
            yield 1.0, torch.cat([given, torch.ones_like(given[:, :1])], 1) if has_bias else given, goal[chosen]


def _outputs(layer: Layer, seen: Seen, stage: Stage) -> Iterator[Side]:
    """What the layer gives as it is, and what is wanted."""
    for own, theirs in zip(seen.own, seen.theirs, strict=True):
        for share, read, wanted in sides(layer, own, theirs, stage):
            yield share, rows(layer.run(read), layer.channel_dim), rows(wanted, layer.channel_dim)


def _inputs(layer: Layer, seen: Seen, stage: Stage) -> Iterator[Side]:
    """The channels that are left, and all that the teacher's layer reads; imitated, the others are zero."""
    dim = layer.channel_dim
    for own, theirs in zip(seen.own, seen.theirs, strict=True):
        if stage.input == "student":
            yield 1.0, rows(own, dim), rows(theirs, dim)
            continue
        yield (1.0 if stage.mu is None else stage.mu), rows(layer.kept_of(theirs), dim), rows(theirs, dim)
        if stage.mu is not None:
            yield 1 - stage.mu, rows(own, dim), rows(own, dim) @ _selection(layer).T.to(own)


def _selection(layer: Layer) -> Tensor:
    """[all channels, those that are left]: what puts each one where the teacher's layer reads it."""
    every = layer.theirs.weight.shape[1]
    return torch.eye(every, device=layer.theirs.weight.device)[:, layer.inputs]


# -- step by step -------------------------------------------------------------------------------------------------


class LayerTraining(Training):
    """The layer on what was seen, its distance over that of nothing: the mean of the squares of what is wanted."""

    def __init__(self, task: Task, layer: Layer, seen: Seen, material: Material, unit: Unit) -> None:
        super().__init__(f"{task.name}, {layer.path}", task, layer.modules, material, unit)
        self.layer = layer
        with torch.no_grad():
            chunks = [sides(layer, own, theirs, task.stage) for own, theirs in zip(seen.own, seen.theirs, strict=True)]
            self.sides = [_joined(parts) for parts in zip(*chunks, strict=True)]
        _, _, wanted = self.sides[0]
        self.order = Order(len(wanted), self.batch, material.seed, f"{task.name}-{layer.path}")
        self.scale = max(float(wanted.square().mean()), 1e-12)

    def error(self) -> Tensor:
        index = self.order.at(self.course.step)
        total = torch.zeros((), device=self.sides[0][1].device)
        for share, read, wanted in self.sides:
            with self.amp():
                given = self.layer.run(read[index])
            total = total + share * (given.float() - wanted[index]).square().mean()
        return total / self.scale

    def show(self, step: int) -> object:
        _, read, _ = self.sides[-1]
        with torch.no_grad():
            return self.layer.run(read[self.order.at(step)])


def _joined(parts: Sequence[Side]) -> Side:
    return parts[0][0], torch.cat([read for _, read, _ in parts]), torch.cat([wanted for _, _, wanted in parts])
