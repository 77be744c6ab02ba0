"""A forward pass that cannot be traced -> the chain of its stages, where that gives the same answer."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graftcli.models.tracing.chain import as_chain, stages
from graftcli.models.tracing.trace import trace
from tests.nets import randomise
from tests.traces import Small, images, run


class Branching(Small):
    """A forward pass that cannot be traced, and is a chain of stages all the same."""

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        if x.abs().sum() < 0:
            raise ValueError
        x = F.relu(self.stage1(x), inplace=True)
        return self.head(self.stage2(x).mean((2, 3)))


def test_a_chain_that_cannot_be_traced_is_read_off_its_stages() -> None:
    network = randomise(Branching()).eval()
    traced = trace(network, images())
    assert {"stage1.0", "stage2.0"} <= {str(n.target) for n in traced.nodes}, "the stages are looked into"
    assert traced.end_name(traced.returned["stage1"]) == "stage1"
    with torch.no_grad():
        assert torch.equal(run(traced, images(count=3)), network(images(count=3)))


def test_stages_in_a_list_are_stages_and_so_is_one_that_runs_twice() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stages = nn.ModuleList([nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1)])
            self.act = nn.ReLU()
            self.head = nn.Linear(16, 5)

        def forward(self, x: Tensor) -> Any:
            for stage in self.stages:
                x = self.act(stage(x))
            return self.head(x.mean((2, 3))) if float(x.sum()) >= 0 else None

    network = Listed().eval()
    traced = trace(network, images())
    assert [str(n.target) for n in traced.nodes if n.op == "call_module"] == [
        "stages.0",
        "act",
        "stages.1",
        "act",
        "head",
    ]


def test_stages_that_cannot_be_traced_either_are_kept_whole() -> None:
    class Stage(nn.Module):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(inputs, outputs, 3, 2, 1)
            self.calls = 0

        def forward(self, x: Tensor) -> Any:
            self.calls += 1  # a tracer's stand-in would not notice what this does
            return self.conv(x) * (2 if torch.is_grad_enabled() else 1) + (x.sum() > 1e9).long().item()

    class Chain(Branching):
        def __init__(self) -> None:
            super().__init__()
            self.stage1 = nn.Sequential(Stage(8, 8))
            self.stage2 = nn.Sequential(Stage(8, 16))

    network = Chain().eval()
    traced = trace(network, images())
    with torch.no_grad():
        assert torch.equal(run(traced, images()), network(images()))


def test_what_may_stand_between_two_stages() -> None:
    class Glued(nn.Module):
        def __init__(self, *glue: Any, head: int) -> None:
            super().__init__()
            self.stem, self.glue, self.head = nn.Conv2d(3, 8, 3, 2, 1), glue, nn.Linear(head, 5)

        def forward(self, x: Tensor) -> Any:
            x = self.stem(x)
            for glue in self.glue:
                x = glue(x)
            return self.head(x)

    batch = images()
    for glue, head in (
        (lambda x: torch.flatten(x, 1), 8 * 256),
        (lambda x: x.mean((2, 3)), 8),
        (lambda x: x.relu(), None),
    ):
        network = Glued(glue, head=head or 16).eval()
        chain = as_chain(network, batch, network(batch))
        assert chain is not None and torch.equal(chain(batch), network(batch))
    odd = Glued(lambda x: x.amax((2, 3)).sin(), head=8).eval()
    assert as_chain(odd, batch, odd(batch)) is None


def test_a_residual_around_stages_is_no_chain() -> None:
    class Residual(Small):
        def forward(self, x: Tensor) -> Any:
            x = self.stem(x)
            return self.head(self.stage2(x + self.stage1(x)).mean((2, 3)))

    network = Residual().eval()
    assert as_chain(network, images(), network(images())) is None


def test_chain_detection_leaves_no_hooks() -> None:
    network = Small().eval()
    as_chain(network, images(), network(images()))
    assert not any(module._forward_hooks for module in network.modules())
    assert [name for name, _ in stages(network)] == ["stem", "stage1", "stage2", "head"]
