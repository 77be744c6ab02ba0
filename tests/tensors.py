"""Tensors of every kind that a file must store."""

import math

import torch


def tensors() -> dict[str, torch.Tensor]:
    base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    return {
        "z.plain": base,
        "tied": base,
        "slice": base[1],
        "turned": base.transpose(0, 2),
        "wide": torch.ones(1).expand(5),
        "counter": torch.tensor(3),
        "nothing": torch.empty(0, 4),
        "half": torch.tensor([1.5, math.inf, -0.0], dtype=torch.bfloat16),
        "double": torch.tensor([math.pi], dtype=torch.float64),
        "flags": torch.tensor([True, False]),
        "bytes": torch.tensor([0, 255], dtype=torch.uint8),
        "parameter": torch.nn.Parameter(torch.tensor([0.1])),
    }
