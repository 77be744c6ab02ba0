"""The networks of the demo, as anybody's own would be: a file of plain modules, with a factory for each.

`graftcli.demo.networks:teacher` and `graftcli.demo.networks:student` are how graftcli is told of them.
"""

from typing import Any, Final

import torch.nn.functional as F
from torch import Tensor, nn

# what graftcli reads of a network's images, as timm writes it
INPUT: Final[dict[str, Any]] = {
    "input_size": (1, 32, 32),
    "mean": (0.5,),
    "std": (0.25,),
    "crop_pct": 1.0,
    "interpolation": "bilinear",
}


class DigitBlock(nn.Module):
    """Two convolutions and a shortcut."""

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
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class DigitNet(nn.Module):
    """A ResNet for small grey pictures: three stages, at 16x16, 8x8 and 4x4, of so many `units` each."""

    default_cfg = INPUT

    def __init__(self, units: tuple[int, int, int]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.layer1 = _stage(units[0], 8, 16)
        self.layer2 = _stage(units[1], 16, 32)
        self.layer3 = _stage(units[2], 32, 40)
        self.head = nn.Linear(40, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def _stage(units: int, inputs: int, outputs: int) -> nn.Sequential:
    first = DigitBlock(inputs, outputs, 2)
    return nn.Sequential(first, *(DigitBlock(outputs, outputs, 1) for _ in range(units - 1)))


def teacher() -> DigitNet:
    """28 layers, 255,970 parameters."""
    return DigitNet((3, 4, 6))


def student() -> DigitNet:
    """10 layers, 75,106 parameters: 29% of the teacher's."""
    return DigitNet((1, 1, 2))
