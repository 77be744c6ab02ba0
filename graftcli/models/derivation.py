"""Networks derived from another network: their JSON description, and rebuilding the architecture from it.

    {"kind": KIND, "spec": "prune:l1=0.5", "base": origin, "kept": […], "whole": [layer, …],
     "replaced": {path: [convolution, …]}}

`rebuild_derived(rebuild(base), origin)` narrows the layers of the base to the kept channels, then replaces each module
in `replaced` by a sequence of convolutions; an empty sequence is the identity.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import nn

from graftcli.errors import few
from graftcli.models.channel_selection import ChannelSelection, as_facts, from_facts, narrow
from graftcli.models.network import Network
from graftcli.models.origin import ConvolutionFacts, DerivedOrigin, Origin

KIND: Final = "derived"
Replaced = Mapping[str, nn.Sequential]  # path -> the layers that replace the teacher's module


def origin_of(
    base: Origin,
    spec: str,
    selections: Sequence[ChannelSelection],
    replaced: Replaced,
    whole: Sequence[str] = (),
) -> DerivedOrigin:
    """Describe a derived network; `whole` names the layers that the spec would narrow but that cannot be narrowed."""
    return {
        "kind": KIND,
        "spec": spec,
        "base": base.copy(),
        "kept": as_facts(selections),
        "whole": list(whole),
        "replaced": {path: [_layer_facts(conv) for conv in layers] for path, layers in replaced.items()},
    }


def _layer_facts(conv: nn.Module) -> ConvolutionFacts:
    assert isinstance(conv, nn.Conv2d)  # layers are replaced by convolutions only
    return {
        "in_channels": conv.in_channels,
        "out_channels": conv.out_channels,
        "kernel_size": conv.kernel_size,
        "stride": conv.stride,
        "padding": conv.padding,
        "dilation": conv.dilation,
        "groups": conv.groups,
        "padding_mode": conv.padding_mode,
        "bias": conv.bias is not None,
    }


def rebuild_derived(base: nn.Module, origin: DerivedOrigin) -> nn.Module:
    """Rebuild a derived architecture from its base, with arbitrary weights."""
    replacements = {path: nn.Sequential(*map(_layer, layers)) for path, layers in origin["replaced"].items()}
    return replace_modules(narrow(base, from_facts(origin["kept"])), replacements).eval()


def _layer(facts: ConvolutionFacts) -> nn.Conv2d:
    settings: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in facts.items()}
    return nn.Conv2d(**settings)


def replace_modules(module: nn.Module, replacements: Replaced) -> nn.Module:
    """A copy of the module with the layers at these paths replaced."""
    copied = copy.deepcopy(module)
    for path, layers in replacements.items():
        copied.set_submodule(path, layers, strict=True)
    return copied


def is_derived(network: Network) -> bool:
    """Whether a network was derived from another network."""
    return network.origin["kind"] == KIND


def base_origin(network: Network) -> Origin:
    """The origin of the network from which a derived network was made."""
    assert network.origin["kind"] == KIND
    return network.origin["base"]


def notes(network: Network) -> list[str]:
    """Notes for the user about how a network was derived."""
    whole = network.origin["whole"] if network.origin["kind"] == KIND else []
    if not whole:
        return []
    names = few([f"`{name}`" for name in whole])
    return [f"student layers {names} keep the teacher's width: their channels cannot be removed independently"]


def selections_of(network: Network) -> tuple[ChannelSelection, ...]:
    """The channel selections of a derived student; empty for other networks."""
    return from_facts(network.origin["kept"]) if network.origin["kind"] == KIND else ()


@torch.no_grad()
def with_random_weights(module: nn.Module) -> nn.Module:
    """A copy with random weights: Kaiming-normal for convolutions, the layer's default otherwise."""
    copied = copy.deepcopy(module)
    for layer in copied.modules():
        reset = getattr(layer, "reset_parameters", None)
        if callable(reset):
            reset()
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                layer.bias.zero_()
    return copied
