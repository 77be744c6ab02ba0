"""A user's own network: `path/to/file.py:factory` or `package.module:factory`, with keywords as `factory(depth=20)`."""

import ast
import inspect
import io
from collections.abc import Mapping
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graftcli.errors import PairError, UsageError
from graftcli.models.loading.code_import import find, gate_for, importable, is_file, running, sha256_of
from graftcli.models.loading.documents import check_kwargs
from graftcli.models.loading.trust import Gate
from graftcli.models.network import IMAGENET, ModelRequest, Network, PreprocessDefaults, measured_width

_SETTINGS = ("pretrained_cfg", "default_cfg")  # where timm's networks and their kin keep what they know of their input
_CROPPED_FROM = 128  # smaller images (CIFAR, MNIST) come in the network's own size: nothing is to be cut off


def keywords(call: str) -> tuple[str, dict[str, Any]]:
    """`factory(depth=20)` -> ("factory", {"depth": 20}). Values are literals: nothing is evaluated."""
    mend = "Write keywords with plain values: factory(depth=20, widths=[16, 32, 64])."
    try:
        node = ast.parse(call.strip(), mode="eval").body
        if isinstance(node, ast.Name):
            return node.id, {}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
            words = {word.arg or "**": ast.literal_eval(word.value) for word in node.keywords}
            if "**" not in words:
                return node.func.id, words
    except (SyntaxError, ValueError, RecursionError, MemoryError) as err:
        raise UsageError(f"`{call}` cannot be read: {err}.", mend) from err
    raise UsageError(f"`{call}` is neither a name nor a call with keywords.", mend)


def network(where: str, call: str, wishes: ModelRequest, gate: Gate | None = None) -> Network:
    """What the user's factory makes, given the classes, channels and size where its signature has a word for them."""
    file = Path(where).expanduser().resolve() if is_file(where) else None
    where = str(file) if file else where
    factory, own = keywords(call)
    named = gate_for(where, factory, gate)
    known = inspect.signature(find(where, factory, named)).parameters
    told = {key: value for key, value in _told(wishes).items() if key not in own and key in known}
    made = module(where, call, told, gate)
    size, preprocess = _input(made, wishes, {**told, **own})
    return Network(
        module=made,
        name=factory,
        source="file" if file else "package",
        weights="as its factory made them",
        input_size=size,
        num_classes=measured_width(made, size),
        preprocess=preprocess.for_channels(size[0]),
        origin={
            "kind": "code",
            "where": where,
            "call": call,
            "kwargs": told,
            "sha256": sha256_of(file) if file else None,
        },
    )


def own_weights(network: Network, gate: Gate | None = None) -> Network:
    """The network with a word on its weights: random ones are others when its factory makes them once more."""
    facts, before = network.origin, network.module.state_dict()
    with torch.random.fork_rng(devices=[]), redirect_stderr(io.StringIO()):  # what it prints it has printed
        torch.manual_seed(1)
        after = module(facts["where"], facts["call"], facts["kwargs"], gate).state_dict()
    same = before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    return network if same else replace(network, weights="random")


def module(where: str, call: str, told: Mapping[str, Any], gate: Gate | None = None) -> nn.Module:
    """The network of a call, in eval mode, float32, on the CPU; a gate admits only trusted files."""
    factory, own = keywords(call)
    named = gate_for(where, factory, gate)
    make = find(where, factory, named)
    if gate is not None:  # trusted code would do with a path what it does
        check_kwargs(own, gate.document)
    fix = "Check the keywords of its call, and --num-classes, --in-chans and --img-size."
    with running(where, f"`{factory}` made its network", fix), importable(where, named):
        made = make(**told, **own)
    if not isinstance(made, nn.Module):
        found = f"`{factory}` in `{where}` made a {type(made).__name__}, not a torch.nn.Module."
        raise PairError(found, "Name a function or class whose call gives the network.")
    return made.float().cpu().eval()


def _told(wishes: ModelRequest) -> dict[str, Any]:
    """The wishes as keywords, a square size as one number, as factories have it."""
    size = wishes.img_size
    edge = size[0] if size and size[0] == size[1] else list(size) if size else None
    wanted = {"num_classes": wishes.num_classes, "in_chans": wishes.in_chans, "img_size": edge}
    return {key: value for key, value in wanted.items() if value is not None}


def _input(
    made: nn.Module, wishes: ModelRequest, kwargs: Mapping[str, Any]
) -> tuple[tuple[int, int, int], PreprocessDefaults]:
    """The input a network says it wants: in timm's settings, an attribute `input_size`, its first convolution."""
    settings = next((s for name in _SETTINGS if isinstance(s := getattr(made, name, None), dict)), {})
    stated = (kwargs.get("img_size"), settings.get("input_size"), getattr(made, "input_size", None))
    size = next((size for said in stated if (size := _size(said))), (224, 224))
    first = next((m.in_channels for m in made.modules() if isinstance(m, nn.Conv2d)), wishes.in_chans or 3)
    channels = kwargs.get("in_chans") or (size[0] if len(size) == 3 else first)
    height, width = wishes.img_size or size[-2:]
    said = {key: settings[key] for key in ("mean", "std", "crop_pct", "interpolation") if settings.get(key)}
    said |= {key: tuple(said[key]) for key in ("mean", "std") if key in said}
    said["squash"] = settings.get("crop_mode") == "squash"
    whole = replace(IMAGENET, crop_pct=1.0) if max(height, width) < _CROPPED_FROM else IMAGENET
    return (channels, height, width), replace(whole, **said)


def _size(said: Any) -> tuple[int, ...]:
    """A size as H, W or C, H, W where it is one: 32, (32, 32), [3, 32, 32]."""
    size = (said, said) if isinstance(said, int) else tuple(said) if isinstance(said, list | tuple) else ()
    return size if len(size) in (2, 3) and all(isinstance(edge, int) and edge > 0 for edge in size) else ()
