"""Shared by tests of layer-wise methods: a layer of a student with the teacher layer that it replaces."""

import torch
from torch import nn

from graftcli.graft.layerwise.layer_pairs import LayerPair
from graftcli.graft.layerwise.one_layer import LayerInputs

ROW = torch.tensor([0, 2, 3]), torch.tensor([0, 1, 3, 4])  # of 4 outputs and 5 inputs


def layer(norm: bool = True) -> LayerPair:
    """A student convolution with three outputs and four inputs of a teacher's convolution with BatchNorm folded in."""
    torch.manual_seed(0)
    teacher_layer, last = nn.Conv2d(5, 4, 3, padding=1).double(), nn.Conv2d(4, 3, 3, padding=1, bias=False).double()
    with torch.no_grad():
        last.weight.copy_(teacher_layer.weight[ROW[0]][:, ROW[1]])
    behind = nn.BatchNorm2d(3).double().eval() if norm else None
    return LayerPair("conv", "conv", "conv", (), last, behind, teacher_layer, *ROW)


def seen() -> LayerInputs:
    generator = torch.Generator().manual_seed(1)
    teacher_inputs = [torch.randn(count, 5, 6, 6, generator=generator, dtype=torch.float64) for count in (4, 4, 3)]
    noise = torch.randn(4, 4, 6, 6, generator=generator, dtype=torch.float64)
    return LayerInputs([x[:, ROW[1]] + 0.3 * noise[: len(x)] for x in teacher_inputs], teacher_inputs)
