"""Blocks of the student that equal the teacher's: in architecture, or in their weights too."""

from typing import Literal

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

Sameness = Literal["architecture", "weights"]


def sameness(teacher: fx.GraphModule, student: fx.GraphModule, inputs: tuple[int, ...]) -> Sameness | None:
    """What of the student's block equals the teacher's; `inputs` is the shape, without the batch, that both read.

    The same code over the same modules is the same architecture, once both give the same numbers with one set of
    weights: what a module computes need not show in its description.
    """
    held = [block.state_dict() for block in (teacher, student)]
    if _shapes(held[0]) != _shapes(held[1]) or _described(teacher) != _described(student):
        return None
    noise = torch.randn(1, *inputs, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        given = [functional_call(block, held[0], (noise.clone(),), tie_weights=False) for block in (teacher, student)]
    if not torch.equal(given[0], given[1]):
        return None
    return "weights" if all(torch.equal(held[0][name], held[1][name]) for name in held[0]) else "architecture"


def _shapes(held: dict[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in held.items()}


def _described(block: fx.GraphModule) -> tuple[str, list[str]]:
    return block.code, [f"{name}: {module!r}" for name, module in nn.Module.named_children(block)]
