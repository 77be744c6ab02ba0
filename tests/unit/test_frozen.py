"""The frozen copy of the teacher says what the teacher says."""

import timm
import torch

from graftcli.graft.backend.frozen import frozen
from graftcli.models.cuts.automatic_cuts import cuts
from graftcli.models.tracing.split import split
from graftcli.models.tracing.trace import trace
from tests.nets import randomise


@torch.no_grad()
def test_folding_batchnorm_changes_no_answer_and_not_the_network() -> None:
    network = randomise(timm.create_model("resnet10t", num_classes=5)).eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    traced = trace(network, torch.randn(2, 3, 64, 64))
    value = same = torch.randn(2, 3, 64, 64)
    for piece in split(traced, cuts(traced)):
        copy = frozen(piece)
        value, same = piece(value), copy(same)
        assert torch.allclose(value, same, rtol=1e-4, atol=1e-4 * float(value.abs().max()))
        assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in copy.modules())
        assert not any(p.requires_grad for p in copy.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_gradients_still_reach_the_input() -> None:
    network = randomise(timm.create_model("resnet10t", num_classes=5)).eval()
    traced = trace(network, torch.randn(2, 3, 64, 64))
    last = frozen(split(traced, cuts(traced))[-1])
    features = torch.randn(2, *traced.shapes[cuts(traced)[-1].node][1:], requires_grad=True)
    last(features).sum().backward()
    assert features.grad is not None and bool((features.grad != 0).any())
