"""Unusual networks, which are difficult or impossible to cut."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def stage(inputs: int, outputs: int, stride: int, padding: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class Plain(nn.Module):
    """Three stages and a head."""

    def __init__(self, num_classes: int = 10, padding: int = 1) -> None:
        super().__init__()
        self.a = stage(3, 8, 1)
        self.b = stage(8, 8, 2, padding)
        self.c = stage(8, 8, 2)
        self.head = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(self.b(self.a(x))).mean((2, 3)))  # type: ignore[no-any-return]


class OneSize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3 * 32 * 32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))  # type: ignore[no-any-return]


class TwoInputs(Plain):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x + y)


class DictOutput(Plain):
    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"logits": super().forward(x)}


class TupleOutput(Plain):
    def forward(self, x: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return super().forward(x), None


class Noisy(Plain):
    """A network whose dropout is active in eval mode too."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.dropout(x, 0.2))


class BatchMinded(Plain):
    """A chain of stages, except for a batch of one image."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.c(self.b(self.a(x)))
        scores: Tensor = self.head(x.mean((2, 3)))
        return scores[0][None] if len(x) == 1 else scores


class Hasty(Plain):
    """A network that modifies its images and features in place."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x.sub_(0.5).mul_(2))
        x += 1
        x = self.b(F.relu_(x))
        scores: Tensor = self.head(self.c(x.clamp_(max=3)).mean((2, 3)))
        return scores


class Tied(Plain):
    """A network in which two stages share weights."""

    def __init__(self) -> None:
        super().__init__()
        self.c = self.b


class ChainWithBranches(Plain):
    """A chain of stages, although its forward pass depends on tensor values."""

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 1e9:
            raise ValueError
        x = self.c(self.b(self.a(x)))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


class Wild(Plain):
    """A network whose operations between the stages depend on tensor values."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = self.b(x * 2 if x.mean() > 0 else x * 3)
        return self.head(self.c(x).mean((2, 3)))  # type: ignore[no-any-return]


class Peeking(nn.Module):
    """A stage whose code depends on tensor values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if float(x.mean()) > -1e9 else x


class Inside(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Sequential(Peeking(), nn.Conv2d(8, 8, 3, 1, 1))


def plain(num_classes: int = 10) -> nn.Module:
    return Plain(num_classes)


def eleven(num_classes: int = 10) -> nn.Module:
    """A network whose second stage has feature maps of another size than Plain's."""
    return Plain(num_classes, padding=0)


def insists() -> nn.Module:
    return Plain(7)


def one_size() -> nn.Module:
    return OneSize()


def two_inputs() -> nn.Module:
    return TwoInputs()


def dict_output() -> nn.Module:
    return DictOutput()


def chain() -> nn.Module:
    return ChainWithBranches()


def wild() -> nn.Module:
    return Wild()


def inside() -> nn.Module:
    return Inside()


def channels_last() -> nn.Module:
    network = Plain()
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network


def tuple_output() -> nn.Module:
    return TupleOutput()


def noisy() -> nn.Module:
    return Noisy()


def batch_minded() -> nn.Module:
    return BatchMinded()


def hasty() -> nn.Module:
    return Hasty()


def tied() -> nn.Module:
    return Tied()


def hooked() -> nn.Module:
    """A network with two hooks: one reads a value, the other changes it."""
    network = Plain()
    network.a.register_forward_hook(lambda *_: None)
    network.b.register_forward_hook(lambda _module, _given, made: made * 2)
    return network


def training() -> nn.Module:
    return Plain().train()


def grey() -> nn.Module:
    network = Plain()
    network.a[0] = nn.Conv2d(1, 8, 3, 1, 1)
    return network
