"""A small network, and a helper that runs its traced graph on images."""

from typing import Any

import torch
from torch import Tensor, fx, nn

from graftcli.models.tracing.trace import Traced


def images(*size: int, count: int = 2) -> Tensor:
    return torch.randn(count, *(size or (3, 32, 32)), generator=torch.Generator().manual_seed(5))


def run(traced: Traced, batch: Tensor) -> Tensor:
    with torch.no_grad():
        result: Tensor = fx.GraphModule(traced.root, traced.graph)(batch)
    return result


class Small(nn.Module):
    """A stem, two stages and a head; subclasses connect them in `forward`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.stage1 = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.stage2 = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.stage2(self.stage1(self.stem(x))).mean((2, 3)))
