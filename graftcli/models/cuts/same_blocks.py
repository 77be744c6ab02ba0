"""Compare blocks of student and teacher: equal architecture, or equal weights as well."""

from typing import Literal

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

Sameness = Literal["architecture", "weights"]


def sameness(teacher: fx.GraphModule, student: fx.GraphModule, inputs: tuple[int, ...]) -> Sameness | None:
    """Compare two blocks; `inputs` is their input shape without the batch dimension.

    Two blocks have the same architecture if their code and modules are equal, and also their outputs for the same
    weights: two modules with equal descriptions may compute different functions.
    """
    states = [block.state_dict() for block in (teacher, student)]
    if _shapes(states[0]) != _shapes(states[1]) or _description(teacher) != _description(student):
        return None
    noise = torch.randn(1, *inputs, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = [
            functional_call(block, states[0], (noise.clone(),), tie_weights=False) for block in (teacher, student)
        ]
    if not torch.equal(outputs[0], outputs[1]):
        return None
    return "weights" if all(torch.equal(states[0][name], states[1][name]) for name in states[0]) else "architecture"


def _shapes(state: dict[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in state.items()}


def _description(block: fx.GraphModule) -> tuple[str, list[str]]:
    return block.code, [f"{name}: {module!r}" for name, module in nn.Module.named_children(block)]
