"""What commutes with a 1x1: op(A(x)) == A(op(x)), where the channels lie as `through` says they do."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.layers import AvgPool2dSame
from torch import Tensor, nn
from torch.nn import functional as F

from graftcli.models.cuts.commuting import Axis, axis_after
from graftcli.models.tracing.trace import Traced, trace


class Op(nn.Module):
    """The images, the operation, and what makes scores of its result."""

    def __init__(self, op: Callable[[Any, Tensor], Tensor], part: nn.Module) -> None:
        super().__init__()
        self.start, self.op, self.part = nn.Hardswish(), op, part

    def forward(self, x: Tensor) -> Any:
        return self.op(self, self.start(x)).flatten(1)


def traced(op: Callable[[Any, Tensor], Tensor], part: nn.Module | None = None) -> Traced:
    return trace(Op(op, part or nn.Identity()), torch.randn(2, 6, 4, 8, generator=torch.Generator().manual_seed(0)))


def mixed(x: Tensor, matrix: Tensor, axis: Axis) -> Tensor:
    """A 1x1 along one dimension, in which `repeat` entries in a row belong to one channel."""
    rows = x.movedim(axis.dim, -1).unflatten(-1, (len(matrix), axis.repeat))
    return torch.einsum("...cr,oc->...or", rows, matrix).flatten(-2).movedim(-1, axis.dim)


COMMUTING: list[tuple[Callable[[Any, Tensor], Tensor], nn.Module | None]] = [
    (lambda m, x: m.part(x), nn.AvgPool2d(2)),
    (lambda m, x: m.part(x), nn.AvgPool2d(3, 2, 1, count_include_pad=True)),
    (lambda m, x: m.part(x), nn.AdaptiveAvgPool2d(2)),
    (lambda m, x: m.part(x), AvgPool2dSame(3, 2)),
    (lambda m, x: m.part(x), nn.Flatten()),
    (lambda m, x: F.avg_pool2d(x, 2), None),
    (lambda m, x: F.adaptive_avg_pool2d(x, 1), None),
    (lambda m, x: torch.flatten(x, 1), None),
    (lambda m, x: x.flatten(2), None),
    (lambda m, x: x.flatten(start_dim=-3), None),
    (lambda m, x: x.permute(0, 2, 3, 1), None),
    (lambda m, x: torch.permute(x, (0, -1, 1, 2)), None),
    (lambda m, x: x.transpose(1, 3), None),
    (lambda m, x: torch.transpose(x, -3, 2), None),
    (lambda m, x: x.reshape(2, 6, 32), None),
    (lambda m, x: x.view(x.size(0), -1), None),
    (lambda m, x: x.reshape(2, 1, 6, 4, 8), None),
    (lambda m, x: x.mean((2, 3)), None),
    (lambda m, x: x.mean(-1, keepdim=True), None),
    (lambda m, x: torch.mean(x, dim=2), None),
    (lambda m, x: x[:, :, ::2, 1:], None),
    (lambda m, x: x.contiguous(), None),
]


@pytest.mark.parametrize(("op", "part"), COMMUTING)
def test_it_commutes(op: Callable[[Any, Tensor], Tensor], part: nn.Module | None) -> None:
    network = traced(op, part)
    nodes = network.nodes
    at = next(i for i, node in enumerate(nodes) if node.target == "start")
    user = next(user for user in nodes[at].users if user not in network.sizes)
    axis = axis_after(network, user, nodes[at], Axis(1))
    assert axis is not None
    numbers = torch.Generator().manual_seed(1)
    x, matrix = (torch.randn(*shape, generator=numbers, dtype=torch.float64) for shape in ((2, 6, 4, 8), (6, 6)))
    module = network.module
    torch.testing.assert_close(op(module, mixed(x, matrix, Axis(1)).contiguous()), mixed(op(module, x), matrix, axis))


@pytest.mark.parametrize(
    "op",
    [
        lambda m, x: x.relu(),
        lambda m, x: x.mean(1, keepdim=True),
        lambda m, x: x.mean() * x,
        lambda m, x: x[:, 1:],
        lambda m, x: x[:, 0],
        lambda m, x: x[..., 1:],
        lambda m, x: x.reshape(2, 3, 2, 4, 8),
        lambda m, x: x.reshape(2, 12, 16),
        lambda m, x: x.flatten(1, 2),
        lambda m, x: F.max_pool2d(x, 2),
        lambda m, x: x + 1,
        lambda m, x: torch.cat([x, x], 1),
        lambda m, x: F.layer_norm(x, (8,)),
    ],
)
def test_what_does_not_commute_is_not_passed(op: Callable[[Any, Tensor], Tensor]) -> None:
    network = traced(lambda m, x: op(m, x).reshape(x.shape[0], -1))
    nodes = network.nodes
    at = next(i for i, node in enumerate(nodes) if node.target == "start")
    user = next(user for user in nodes[at].users if user not in network.sizes)
    assert axis_after(network, user, nodes[at], Axis(1)) is None
