"""The origin of a network: the plain JSON from which its architecture is made again, and where graftcli keeps it.

folder/graft.json           {"student": origin, …}
folder/model.safetensors    its weights
file.safetensors            weights, and in the metadata {"graftcli": '{"origin": origin, …}'}
"""

import json
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from graftcli.errors import CheckpointError, PairError
from graftcli.nets import derived, from_code, from_timm, from_torchvision
from graftcli.nets.network import Asked, Network, Preprocess

FACTS_FILE = "graft.json"
WEIGHTS_FILE = "model.safetensors"
METADATA_KEY = "graftcli"  # one key alone: safetensors writes several in no fixed order


def complete(network: Network) -> Network:
    """The network, whose origin says all that reading it back needs: its input and its classes too."""
    facts = {
        "name": network.name,
        "input_size": network.input_size,
        "num_classes": network.num_classes,
        "preprocess": asdict(network.preprocess),
    }
    return replace(network, origin=json.loads(json.dumps({**network.origin, **facts})))


def check_trust(origin: Mapping[str, Any], path: Path, unsafe: bool) -> None:
    """An origin that was read from `path` runs no code but a file of the user's own, and that one unchanged.

    Else whoever wrote the origin could have any function called that Python has, os.system among them.
    """
    if unsafe or (entry := needs_trust(origin)) is None:
        return
    found = f"Reading `{path}` runs `{entry.get('call')}` of `{entry.get('where')}`, whatever that does."
    raise CheckpointError(found, "If you trust whoever wrote it, --unsafe-load does so; in Python, unsafe=True.")


def needs_trust(origin: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The part of an origin that runs other code than a file of the user's own, if there is one."""
    inner = (needs_trust(value) for value in origin.values() if isinstance(value, Mapping))
    if (found := next((entry for entry in inner if entry is not None), None)) is not None:
        return found
    return origin if origin.get("kind") == "code" and not _is_users_own(str(origin.get("where"))) else None


def _is_users_own(where: str) -> bool:
    """Whether this is a file, and none that came with Python or its packages."""
    file = Path(where).resolve()
    homes = {Path(home).resolve() for home in (*sysconfig.get_paths().values(), sys.prefix, sys.base_prefix)}
    installed = any(file.is_relative_to(home) for home in homes if home != Path(home.anchor))
    return from_code.is_file(where) and not installed and "site-packages" not in file.parts


def rebuild(origin: Mapping[str, Any]) -> nn.Module:
    """The architecture of an origin, in eval mode, float32, on the CPU; its weights mean nothing."""
    if origin["kind"] == "code":
        return from_code.module(origin["where"], origin["call"], origin["kwargs"], origin["sha256"])
    if origin["kind"] == derived.KIND:
        return derived.rebuilt(rebuild(origin["base"]), origin)
    name, kind = origin["name"], origin["kind"]
    if kind == "timm" and from_timm.known(name):
        return from_timm.module(name, origin["kwargs"]).float().eval()
    if kind == "torchvision" and name in from_torchvision.names():
        return from_torchvision.module(name, origin["kwargs"]).float().eval()
    found = f"The network `{name}` of the kind `{kind}` is not known here."
    raise CheckpointError(
        found, "Bring graftcli, timm and torchvision to the versions that wrote it, or to newer ones."
    )


def again(origin: Mapping[str, Any], wishes: Asked) -> Network:
    """The network of a complete origin, before its weights are loaded; the size asked for, if it runs at that."""
    module = rebuild(origin)
    channels, *own = origin["input_size"]
    height, width = wishes.img_size or own
    if (height, width) != tuple(own):
        _check_runs(module, (channels, height, width), f"`{origin['name']}`, as it was written for {own[0]}x{own[1]},")
    return Network(
        module=module,
        name=origin["name"],
        source="graftcli",
        weights="random",
        input_size=(channels, height, width),
        num_classes=origin["num_classes"],
        preprocess=Preprocess.read(origin["preprocess"]),
        origin=dict(origin),
    )


def _check_runs(module: nn.Module, size: tuple[int, int, int], who: str) -> None:
    try:
        with torch.no_grad():
            module(torch.zeros(1, *size))
    except Exception as err:  # whatever a network's own code raises at a size that it was not made for
        found = f"{who} does not run on images of {size[1]}x{size[2]}: {type(err).__name__}."
        raise PairError(found, "Leave --img-size out, or name the network anew, with its weights.") from err


def is_output(path: Path) -> bool:
    """Whether graftcli wrote this folder or file."""
    return (path / FACTS_FILE).is_file() if path.is_dir() else bool(_metadata(path))


def no_output(folder: Path, *mends: str) -> CheckpointError:
    """The error for a folder in which graftcli wrote no network, or has not yet."""
    found = f"The folder `{folder}` holds no {FACTS_FILE}: it is no run, or one that is not finished."
    own = "A run is finished by its own command, given again; of a folder of runs name one."
    return CheckpointError(found, " ".join((own, *mends)))


def read_output(path: Path) -> tuple[dict[str, Any], Path]:
    """The origin of the network that graftcli wrote to `path`, and the file of its weights."""
    facts, key = (path / FACTS_FILE, "student") if path.is_dir() else (path, "origin")
    try:
        document = json.loads(facts.read_text(encoding="utf-8") if path.is_dir() else _metadata(path))
        if document.get("kind") == "hybrid":
            raise CheckpointError(f"`{path}` is partly teacher and partly student.", "Load it with graftcli.load.")
        origin = document[key]
        if missing := {"kind", "name", "input_size", "num_classes", "preprocess"} - set(origin):
            raise KeyError(", ".join(sorted(missing)))
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        found = f"`{facts}` is not what graftcli writes: {type(err).__name__}: {err}."
        raise CheckpointError(
            found, "Write it again, or name the network and give the weights as its checkpoint."
        ) from err
    return origin, path / WEIGHTS_FILE if path.is_dir() else path


def _metadata(file: Path) -> str:
    try:
        with safe_open(file, "pt") as tensors:
            return str((tensors.metadata() or {}).get(METADATA_KEY, ""))
    except (SafetensorError, OSError):
        return ""  # another kind of file, or damage that reading the weights reports
