"""Modules passed from Python: `in-memory:NAME` is their model spec."""

import copy
import hashlib
from typing import Final

import torch
from torch import nn

from graftcli.errors import PairError, UsageError
from graftcli.models.loading.from_code import input_of
from graftcli.models.network import ModelRequest, Network, measured_outputs
from graftcli.models.weights import Weights, WeightsOrigin

PREFIX = "in-memory:"
KIND: Final = "in-memory"
_MODULES: dict[str, nn.Module] = {}


def spec_of(model: str | nn.Module) -> str:
    """The model spec of `model`: itself if it is a string, else one that is valid in this process only."""
    if isinstance(model, str):
        return model
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"a network is given as {type(model).__name__}.", 'Give a model spec, such as "resnet34", or an nn.Module.'
        )
    digest = hashlib.sha256(f"{type(model).__module__}.{type(model).__qualname__} {model}".encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    name = f"{type(model).__name__}-{digest.hexdigest()[:12]}"
    _MODULES[name] = model
    return f"{PREFIX}{name}"


def network(name: str, request: ModelRequest) -> Network:
    """Build a network from a copy of the module; the original is never changed."""
    module = rebuild(name)
    known = input_of(module, request, {})
    return Network(
        module=module,
        name=name.rpartition("-")[0],
        source="memory",
        weights=Weights(WeightsOrigin.MODULE),
        input_size=known.size,
        num_classes=measured_outputs(module, known.size),
        preprocess=known.preprocess.for_channels(known.size[0]),
        origin={"kind": KIND, "key": name},
        size_is_assumed=known.is_assumed,
    )


def rebuild(name: str) -> nn.Module:
    """Copy a module that was passed in this process, in eval mode, float32, on the CPU."""
    if name not in _MODULES:
        raise PairError(
            f"`{name}` is a module of another process.",
            "Pass the module again, or name its code as file.py:factory.",
        )
    return copy.deepcopy(_MODULES[name]).float().cpu().eval()
