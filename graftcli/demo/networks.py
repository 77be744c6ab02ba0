"""The networks of the demo, defined like any custom network: plain modules, each with a factory function.

Their specs are `graftcli.demo.networks:teacher` and `graftcli.demo.networks:student`.
"""

from typing import Final, TypedDict

import torch.nn.functional as F
from torch import Tensor, nn


class _InputSettings(TypedDict):
    """Preprocessing in the format of a timm `default_cfg`, which graftcli reads."""

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float
    interpolation: str


INPUT: Final[_InputSettings] = {
    "input_size": (1, 32, 32),
    "mean": (0.5,),
    "std": (0.25,),
    "crop_pct": 1.0,
    "interpolation": "bilinear",
}


class DigitBlock(nn.Module):
    """Basic residual block: two convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Features of the block's stride and number of outputs."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class DigitNet(nn.Module):
    """ResNet for 32x32 greyscale images: three stages at 16x16, 8x8 and 4x4, with `depths` blocks each."""

    default_cfg = INPUT

    def __init__(self, depths: tuple[int, int, int]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.layer1 = _stage(depths[0], 8, 16)
        self.layer2 = _stage(depths[1], 16, 32)
        self.layer3 = _stage(depths[2], 32, 40)
        self.head = nn.Linear(40, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the ten digits."""
        x = F.relu(self.bn(self.stem(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def _stage(depth: int, inputs: int, outputs: int) -> nn.Sequential:
    first = DigitBlock(inputs, outputs, 2)
    return nn.Sequential(first, *(DigitBlock(outputs, outputs, 1) for _ in range(depth - 1)))


def teacher() -> DigitNet:
    """Build the teacher: 28 layers, 255,970 parameters."""
    return DigitNet((3, 4, 6))


def student() -> DigitNet:
    """Build the student: 10 layers, 75,106 parameters (29% of the teacher)."""
    return DigitNet((1, 1, 2))
