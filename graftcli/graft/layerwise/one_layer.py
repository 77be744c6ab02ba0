"""Fits one layer of a student that is derived from the teacher: by least squares, or by gradient steps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graftcli.graft.backend.transfer import to_device
from graftcli.graft.data.sampler import Sampler
from graftcli.graft.initialize.adapters import rows
from graftcli.graft.layerwise.layer_pairs import LayerPair, folded, set_folded
from graftcli.graft.training.tasks import Task
from graftcli.graft.training.trainer import TaskStore, TrainContext, Trainer
from graftcli.models.least_squares import Equations, solve, to_float64
from graftcli.recipe import Stage

_MAX_INPUTS = 8192  # of input channels for `solve: inputs`; the equations of wider layers need too much memory


@dataclass(frozen=True)
class LayerInputs:
    """The inputs of a layer, in chunks: those of the student's layer and those of the teacher's."""

    student: Sequence[Tensor]
    teacher: Sequence[Tensor]

    def chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The inputs of both layers, chunk by chunk."""
        return zip(self.student, self.teacher, strict=True)


def equations(layer: LayerPair, student: Tensor, teacher: Tensor, stage: Stage) -> Iterator[Equations]:
    """Yield weight, input and target of each loss term of the layer, as `stage.input` defines them."""
    if stage.input == "student":
        yield 1.0, student, layer.target(teacher)
        return
    yield (1.0 if stage.mu is None else stage.mu), layer.select_inputs(teacher), layer.target(teacher)
    if stage.mu is not None:
        yield 1 - stage.mu, student, layer.imitation_target(student)


# -- least squares ------------------------------------------------------------------------------------------------


def is_solvable(layer: LayerPair, stage: Stage) -> bool:
    """Whether the stage can fit the layer: `solve: inputs` needs a single module that is not too wide."""
    return stage.solve != "inputs" or (not layer.preceding and len(layer.inputs) <= _MAX_INPUTS)


@torch.no_grad()
def solve_layer(layer: LayerPair, inputs: LayerInputs, stage: Stage) -> float:
    """Solve for a 1x1 after or before the layer and merge it into the layer. Returns the remaining relative error."""
    assert stage.ridge is not None  # least-squares stages always have a ridge
    if stage.solve == "outputs":
        weight, bias = folded(layer)
        identity = torch.eye(len(weight), device=weight.device)
        solution = solve(_output_equations(layer, inputs, stage), identity, stage.ridge)
        set_folded(layer, torch.tensordot(solution.weight, weight, 1), solution.weight @ bias, inputs.student)
        return solution.error
    before = solve(_input_equations(layer, inputs, stage), _selection(layer), stage.ridge)
    weight = torch.einsum("oi...,ij->oj...", to_float64(layer.teacher.weight[layer.outputs]), before.weight)
    teacher_bias = layer.teacher.bias
    bias = weight.new_zeros(len(weight)) if teacher_bias is None else to_float64(teacher_bias[layer.outputs])
    set_folded(layer, weight, bias, inputs.student)
    return before.error


def _output_equations(layer: LayerPair, inputs: LayerInputs, stage: Stage) -> Iterator[Equations]:
    """Map the outputs of the student's layer to the target."""
    for student, teacher in inputs.chunks():
        for share, value, target in equations(layer, student, teacher, stage):
            yield share, rows(layer.run(value), layer.channel_dim), rows(target, layer.channel_dim)


def _input_equations(layer: LayerPair, inputs: LayerInputs, stage: Stage) -> Iterator[Equations]:
    """Map the student's input channels to all input channels of the teacher's layer, or to zeros for imitation."""
    dim = layer.channel_dim
    for student, teacher in inputs.chunks():
        if stage.input == "student":
            yield 1.0, rows(student, dim), rows(teacher, dim)
            continue
        yield (1.0 if stage.mu is None else stage.mu), rows(layer.select_inputs(teacher), dim), rows(teacher, dim)
        if stage.mu is not None:
            yield 1 - stage.mu, rows(student, dim), rows(student, dim) @ _selection(layer).T.to(student)


def _selection(layer: LayerPair) -> Tensor:
    """The matrix [teacher's inputs, student's inputs] that puts each channel in its place in the teacher's layer."""
    count = layer.teacher.weight.shape[1]
    return torch.eye(count, device=layer.teacher.weight.device)[:, layer.inputs]


# -- gradient steps -----------------------------------------------------------------------------------------------


class LayerTrainer(Trainer):
    """Trains one layer; the loss is the squared error relative to the mean square of the target."""

    def __init__(
        self, task: Task, layer: LayerPair, inputs: LayerInputs, context: TrainContext, unit: TaskStore
    ) -> None:
        super().__init__(f"{task.name}, {layer.path}", task, layer.modules, context, unit)
        self.layer = layer
        with torch.no_grad():
            chunks = [equations(layer, student, teacher, task.stage) for student, teacher in inputs.chunks()]
            self.terms = [_concatenated(term) for term in zip(*chunks, strict=True)]
        _, _, target = self.terms[0]
        self.order = Sampler(len(target), self.batch, context.seed, f"{task.name}-{layer.path}")
        self.scale = max(float(target.square().mean()), 1e-12)

    def compute_loss(self) -> Tensor:
        """Compute the relative squared error on the views of the current step."""
        index = self._index(self.train_state.step)
        total = torch.zeros((), device=self.terms[0][1].device)
        for share, value, target in self.terms:
            with self.context.precision.autocast():
                output = self.layer.run(value[index])
            total = total + share * (output.float() - target[index]).square().mean()
        return total / self.scale

    def forward(self, step: int) -> object:
        """Run the student's layer on the views of a step, without gradients."""
        _, value, _ = self.terms[-1]
        with torch.no_grad():
            return self.layer.run(value[self._index(step)])

    def _index(self, step: int) -> Tensor:
        """Return the views of a step, on the device: it would wait for an index that is on the CPU."""
        return to_device(self.order.at(step), self.terms[0][1].device)


def _concatenated(chunks: Sequence[Equations]) -> Equations:
    return (
        chunks[0][0],
        torch.cat([value for _, value, _ in chunks]),
        torch.cat([target for _, _, target in chunks]),
    )
