"""Students made out of a network: as plain JSON, and the architecture again from it.

    {"kind": "derived", "spec": "prune:l1=0.5", "base": origin, "kept": […], "whole": [layer, …],
     "replaced": {path: [convolution, …]}}

`rebuilt(rebuild(base), origin)` narrows the layers of the base to what was kept of them, then puts a row of
convolutions in the place of each replaced module: none at all is the identity.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from graftcli.errors import few
from graftcli.models.channel_selection import ChannelSelection, as_facts, from_facts, narrow
from graftcli.models.network import Network

KIND = "derived"
Replaced = Mapping[str, nn.Sequential]  # what stands at these paths in the teacher's place
_SHAPE = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")


def origin_of(
    base: Mapping[str, Any], spec: str, kept: Sequence[ChannelSelection], replaced: Replaced, whole: Sequence[str] = ()
) -> dict[str, Any]:
    """`whole` names the layers whose channels had to stay although the spec would have some go."""
    rows = {path: [_layer_facts(conv) for conv in row] for path, row in replaced.items()}
    made = {"kept": as_facts(kept), "whole": list(whole), "replaced": rows}
    return {"kind": KIND, "spec": spec, "base": dict(base), **made}


def _layer_facts(conv: nn.Module) -> dict[str, Any]:
    assert isinstance(conv, nn.Conv2d)  # nothing else is put in a layer's place
    return {**{name: getattr(conv, name) for name in _SHAPE}, "bias": conv.bias is not None}


def rebuilt(base: nn.Module, origin: Mapping[str, Any]) -> nn.Module:
    """The architecture of a derived origin out of its base's; its weights mean nothing."""
    rows = {path: nn.Sequential(*map(_layer, row)) for path, row in origin["replaced"].items()}
    return replace_modules(narrow(base, from_facts(origin["kept"])), rows).eval()


def _layer(facts: Mapping[str, Any]) -> nn.Conv2d:
    words: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in facts.items()}
    return nn.Conv2d(**words)


def replace_modules(module: nn.Module, rows: Replaced) -> nn.Module:
    """A copy with these rows of layers at their paths."""
    made = copy.deepcopy(module)
    for path, row in rows.items():
        made.set_submodule(path, row, strict=True)
    return made


def is_derived(network: Network) -> bool:
    """Whether a network was made out of another: its weights are that network's, wherever it kept them."""
    return bool(network.origin.get("kind") == KIND)


def base_of(network: Network) -> dict[str, Any]:
    """The origin of the network that a derived one was made of."""
    base: dict[str, Any] = network.origin["base"]
    return base


def notes(network: Network) -> list[str]:
    """What a user should know of how a network was derived."""
    whole = network.origin["whole"] if is_derived(network) else []
    if not whole:
        return []
    names = few([f"`{name}`" for name in whole])
    return [f"of the student {names} stay as wide as in the teacher: their channels cannot go without moving others"]


def kept_of(network: Network) -> tuple[ChannelSelection, ...]:
    """What each layer of a derived student is of its teacher's; nothing for other networks."""
    return from_facts(network.origin["kept"]) if is_derived(network) else ()


@torch.no_grad()
def afresh(module: nn.Module) -> nn.Module:
    """A copy with random weights: He's for convolutions, each other layer's own."""
    made = copy.deepcopy(module)
    for layer in made.modules():
        reset = getattr(layer, "reset_parameters", None)
        if callable(reset):
            reset()
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                layer.bias.zero_()
    return made
