"""Faster gradients of depthwise convolutions: the same output, and as near to float32 as those of autocast."""

import pytest
import timm
import torch
from torch import Tensor, nn

from graftcli.graft.backend.precision import Precision

AMP = Precision(torch.device("cpu"), amp=True)


def plain_autocast() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


def gradients(layer: nn.Module, images: Tensor, direction: Tensor, context: object) -> dict[str, Tensor]:
    """The output of a layer, and its gradients along a direction, computed in a context or in float32."""
    layer.zero_grad()
    images = images.clone().requires_grad_()
    if context is None:
        output = layer(images)
    else:
        with context:  # type: ignore[attr-defined]
            output = layer(images)
    (output.float() * direction).sum().backward()
    assert images.grad is not None
    found = {"output": output.detach(), "input": images.grad}
    return found | {name: parameter.grad.clone() for name, parameter in layer.named_parameters()}  # type: ignore[union-attr]


@pytest.mark.parametrize("kernel", [3, 5, 7, (5, 3), (1, 7), 4], ids=str)
@pytest.mark.parametrize("stride", [1, 2, (2, 1)], ids=str)
@pytest.mark.parametrize("padding", [0, 2])
def test_output_is_autocasts_and_gradients_are_as_near_to_float32(
    kernel: int | tuple[int, int], stride: int | tuple[int, int], padding: int
) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(24, 24, kernel, stride, padding, groups=24)
    images = torch.randn(6, 24, 17, 15).to(memory_format=torch.channels_last)
    direction = torch.randn_like(layer(images))
    exact = gradients(layer, images, direction, None)
    autocast = gradients(layer, images, direction, plain_autocast())
    fast = gradients(layer, images, direction, AMP.autocast())
    assert torch.equal(fast["output"], autocast["output"])
    for name, value in exact.items():
        error, limit = ((found[name].float() - value).norm() / value.norm() for found in (fast, autocast))
        assert error < 1.1 * limit, f"{name}: {error:.2e} instead of {limit:.2e}"


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "mobilenetv3_small_100", "convnext_atto", "mobilevit_xxs"])
def test_whole_networks_have_the_gradients_of_autocast(name: str) -> None:
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=10).to(memory_format=torch.channels_last)
    images = torch.randn(4, 3, 64, 64).to(memory_format=torch.channels_last)
    network.train()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    direction = torch.randn(4, 10)
    exact, autocast, fast = (
        torch.cat([g.flatten() for key, g in gradients(network, images, direction, how).items() if key != "output"])
        for how in (None, plain_autocast(), AMP.autocast())
    )
    assert (fast - exact).norm() < 1.1 * (autocast - exact).norm()


def test_other_convolutions_and_float32_are_left_alone() -> None:
    images = torch.randn(2, 8, 9, 9)
    dense, depthwise = nn.Conv2d(8, 8, 5), nn.Conv2d(8, 8, 5, groups=8)
    own = "_DepthwiseConv2dBackward"
    with AMP.autocast():
        assert type(depthwise(images).grad_fn).__name__ == own
        assert type(dense(images).grad_fn).__name__ != own
        assert type(nn.Conv2d(8, 8, 3, groups=8)(images).grad_fn).__name__ != own
        assert type(nn.Conv2d(8, 8, 5, dilation=2, groups=8)(images).grad_fn).__name__ != own
        assert type(nn.Conv2d(8, 8, 5, padding="same", groups=8)(images).grad_fn).__name__ != own
        with torch.no_grad():
            assert depthwise(images).grad_fn is None
    with Precision(torch.device("cpu")).autocast():
        output = depthwise(images)
        assert type(output.grad_fn).__name__ != own
        assert output.dtype == torch.float32
