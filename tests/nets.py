"""Small networks that tests share."""

from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)
NETS = Path(__file__).resolve()  # a spec names it: f"{NETS}:resnet(depth=8)"


class BasicBlock(nn.Module):
    """The block of the CIFAR ResNets with option A: a shortcut without parameters."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.padding = stride, (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(x + y)


class CifarResNet(nn.Module):
    """He et al.'s ResNet for 32x32 images: 6n+2 layers in three stages, the first of `width` channels."""

    input_size = (3, 32, 32)

    def __init__(self, depth: int, num_classes: int, width: int) -> None:
        super().__init__()
        n, a, b, c = (depth - 2) // 6, width, 2 * width, 4 * width
        self.conv1 = nn.Conv2d(3, a, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(a)
        self.layer1 = nn.Sequential(*(BasicBlock(a, a, 1) for _ in range(n)))
        self.layer2 = nn.Sequential(*(BasicBlock(a if i == 0 else b, b, 2 if i == 0 else 1) for i in range(n)))
        self.layer3 = nn.Sequential(*(BasicBlock(b if i == 0 else c, c, 2 if i == 0 else 1) for i in range(n)))
        self.linear = nn.Linear(c, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def resnet(depth: int = 20, num_classes: int = 10, width: int = 16) -> CifarResNet:
    """The option-A CIFAR ResNet, whose keys are those of Y. Idelbayev's checkpoints."""
    return CifarResNet(depth, num_classes, width)


def half_resnet56(num_classes: int = 10) -> CifarResNet:
    """The resnet56 with half of its channels."""
    return CifarResNet(56, num_classes, 8)


@torch.no_grad()
def randomise(module: M, seed: int = 0) -> M:
    """Randomise all parameters and buffers of the module, including BatchNorm statistics and zero-initialised scales.

    Variances and scales of BatchNorm are around 1, and shifts around 0, so that activations stay in a normal range.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            continue
        noise = torch.rand(tensor.shape, generator=generator)
        if name.endswith("running_var") or (name.endswith("weight") and tensor.ndim == 1):
            tensor.copy_(0.5 + noise)
        elif tensor.ndim == 1:
            tensor.add_(0.2 * (noise - 0.5))
        else:
            tensor.add_(noise * tensor.std().nan_to_num(0.0) * 0.1)
    return module


def same_weights(left: nn.Module, right: nn.Module) -> bool:
    """Whether two networks have the same state dict, bit for bit."""
    a, b = left.state_dict(), right.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def squeezenet() -> nn.Module:
    """torchvision's SqueezeNet 1.1 with half the channels between its second and its third max-pool."""
    from torchvision.models.squeezenet import Fire, SqueezeNet

    made: nn.Module = SqueezeNet("1_1")
    made.set_submodule("features.6", Fire(128, 16, 64, 64))
    made.set_submodule("features.7", Fire(128, 16, 64, 64))
    made.set_submodule("features.9", Fire(128, 48, 192, 192))
    return made


class CifarVGG(nn.Module):
    """The VGG16 for 32x32 images of Li et al. 2017 as the paper has it: convolutions without BatchNorm, and a head of
    Linear-BatchNorm-Linear."""

    input_size = (3, 32, 32)

    def __init__(self, widths: tuple[int, ...], head: int, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for width, depth in zip(widths, (2, 2, 3, 3, 3), strict=True):
            for _ in range(depth):
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(inplace=True)]
                inputs = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(inputs, head), nn.BatchNorm1d(head), nn.ReLU(inplace=True), nn.Linear(head, num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


def resnet18(num_classes: int = 10) -> nn.Module:
    """The ResNet18 for 32x32 images that the paper grafts into its VGG16: no downsampling before the first stage."""
    from torchvision.models import resnet18 as for_imagenet

    made: nn.Module = for_imagenet(num_classes=num_classes)
    made.set_submodule("conv1", nn.Conv2d(3, 64, 3, padding=1, bias=False))
    made.set_submodule("maxpool", nn.Identity())
    made.input_size = (3, 32, 32)  # type: ignore[assignment]
    return made


def resnet_of_four_blocks(num_classes: int = 10) -> nn.Module:
    """A ResNet for 64x64 images with few channels, five units in `layer3` and, like a resnet34, four blocks."""
    from timm.models.resnet import BasicBlock, ResNet

    made: nn.Module = ResNet(
        BasicBlock, layers=(1, 1, 5, 1), channels=(8, 16, 32, 64), stem_width=8, num_classes=num_classes
    )
    made.input_size = (3, 64, 64)  # type: ignore[assignment]
    return made


def vgg16(num_classes: int = 10, width: int = 64) -> CifarVGG:
    """The paper's CIFAR teacher, 14.98 M parameters; with a smaller `width` the same at less cost."""
    return CifarVGG((width, 2 * width, 4 * width, 8 * width, 8 * width), 8 * width, num_classes)
