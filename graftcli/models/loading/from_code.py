"""Networks from user code: `path/to/file.py:factory` or `package.module:factory(depth=20)`."""

import ast
import inspect
import io
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from graftcli.errors import PairError, UsageError
from graftcli.models.loading.code_import import find, gate_for, importable, is_file, running, sha256_of
from graftcli.models.loading.documents import check_kwargs
from graftcli.models.loading.trust import Gate
from graftcli.models.network import IMAGENET, ModelRequest, Network, PreprocessDefaults, measured_outputs
from graftcli.models.origin import Kwargs
from graftcli.models.weights import Weights, WeightsOrigin

_SETTINGS = ("pretrained_cfg", "default_cfg")  # attributes in which timm models describe their input
_SIZES = ("input_size", "img_size", "image_size")  # attributes that name the input size, in this order
_ASSUMED_SIZE = (224, 224)  # input size of a network that declares none
_MIN_CROPPED_SIZE = 128  # below this size (CIFAR, MNIST) images are not cropped


def keywords(call: str) -> tuple[str, dict[str, object]]:
    """`factory(depth=20)` -> ("factory", {"depth": 20}). Values must be literals; no code is evaluated."""
    fix = "Use keyword arguments with literal values: factory(depth=20, widths=[16, 32, 64])."
    try:
        node = ast.parse(call.strip(), mode="eval").body
        if isinstance(node, ast.Name):
            return node.id, {}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
            values = {keyword.arg or "**": ast.literal_eval(keyword.value) for keyword in node.keywords}
            if "**" not in values:
                return node.func.id, values
    except (SyntaxError, ValueError, RecursionError, MemoryError) as err:
        raise UsageError(f"`{call}` cannot be read: {err}.", fix) from err
    raise UsageError(f"`{call}` is neither a name nor a call with keyword arguments.", fix)


def network(where: str, call: str, request: ModelRequest, gate: Gate | None = None) -> Network:
    """Call the user's factory; pass classes, channels and image size where its signature takes them."""
    file = Path(where).expanduser().resolve() if is_file(where) else None
    where = str(file) if file else where
    factory, literals = keywords(call)
    active_gate = gate_for(where, factory, gate)
    parameters = inspect.signature(find(where, factory, active_gate)).parameters
    requested = {
        key: value for key, value in _as_keywords(request).items() if key not in literals and key in parameters
    }
    built = module(where, call, requested, gate)
    known = input_of(built, request, {**requested, **literals})
    return Network(
        module=built,
        name=factory,
        source="file" if file else "package",
        weights=Weights(WeightsOrigin.CODE),
        input_size=known.size,
        num_classes=measured_outputs(built, known.size),
        preprocess=known.preprocess.for_channels(known.size[0]),
        origin={
            "kind": "code",
            "where": where,
            "call": call,
            "kwargs": requested,
            "sha256": sha256_of(file) if file else None,
        },
        size_is_assumed=known.is_assumed,
    )


def mark_random_weights(network: Network, gate: Gate | None = None) -> Network:
    """Mark the weights as random if a second call of the factory gives different weights."""
    origin, before = network.origin, network.module.state_dict()
    assert origin["kind"] == "code"  # as `network` above has made it
    # hides what the factory prints, which the first call has shown
    with torch.random.fork_rng(devices=[]), redirect_stderr(io.StringIO()):
        torch.manual_seed(1)
        after = module(origin["where"], origin["call"], origin["kwargs"], gate).state_dict()
    same = before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    return network if same else replace(network, weights=Weights(WeightsOrigin.RANDOM))


def module(where: str, call: str, requested: Kwargs, gate: Gate | None = None) -> nn.Module:
    """Call the factory, in eval mode, float32, on the CPU; a gate admits only trusted files."""
    factory, literals = keywords(call)
    active_gate = gate_for(where, factory, gate)
    build = find(where, factory, active_gate)
    if gate is not None:  # trusted code could misuse a path
        check_kwargs(literals, gate.document)
    fix = "Check its keyword arguments, --num-classes, --in-chans and --img-size."
    with running(where, f"`{factory}` built its network", fix), importable(where, active_gate):
        built = build(**requested, **literals)
    if not isinstance(built, nn.Module):
        message = f"`{factory}` in `{where}` returned a {type(built).__name__}, not a torch.nn.Module."
        raise PairError(message, "Name a function or class that returns the network.")
    return built.float().cpu().eval()


def _as_keywords(request: ModelRequest) -> dict[str, object]:
    """The request as keyword arguments; a square size becomes one number."""
    size = request.img_size
    edge = size[0] if size and size[0] == size[1] else list(size) if size else None
    values = {"num_classes": request.num_classes, "in_chans": request.in_chans, "img_size": edge}
    return {key: value for key, value in values.items() if value is not None}


class Input(NamedTuple):
    """The input of a network of user code."""

    size: tuple[int, int, int]  # C, H, W
    preprocess: PreprocessDefaults
    is_assumed: bool  # whether the size is a default that nothing declares


def input_of(module: nn.Module, request: ModelRequest, kwargs: Kwargs) -> Input:
    """Find the input size and preprocessing: in timm's settings, attributes such as `input_size`, the first layer."""
    settings = next((s for name in _SETTINGS if isinstance(s := getattr(module, name, None), dict)), {})
    stored_sizes = (settings.get("input_size"), *(getattr(module, name, None) for name in _SIZES))
    named = next((size for stored in (kwargs.get("img_size"), *stored_sizes) if (size := _size(stored))), None)
    size = named or _ASSUMED_SIZE
    first = next((m.in_channels for m in module.modules() if isinstance(m, nn.Conv2d)), request.in_chans or 3)
    channels = kwargs.get("in_chans") or (size[0] if len(size) == 3 else first)
    height, width = request.img_size or size[-2:]
    stored = {key: settings[key] for key in ("mean", "std", "crop_pct", "interpolation") if settings.get(key)}
    stored |= {key: tuple(stored[key]) for key in ("mean", "std") if key in stored}
    stored["squash"] = settings.get("crop_mode") == "squash"
    defaults = replace(IMAGENET, crop_pct=1.0) if max(height, width) < _MIN_CROPPED_SIZE else IMAGENET
    is_assumed = named is None and request.img_size is None
    return Input((channels, height, width), replace(defaults, **stored), is_assumed)


def _size(value: object) -> tuple[int, ...]:
    """Parse a size as (H, W) or (C, H, W): 32, (32, 32), [3, 32, 32]; () if it is none."""
    size = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, list | tuple) else ()
    return size if len(size) in (2, 3) and all(isinstance(edge, int) and edge > 0 for edge in size) else ()
