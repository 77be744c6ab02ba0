"""The origin of a network: the plain JSON from which its architecture is built again, and where graftcli keeps it.

folder/graft.json           {"student": origin, …}
folder/model.safetensors    its weights, and the same document in its metadata
file.safetensors            the same, wherever it lies
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graftcli.errors import CheckpointError, PairError, UsageError, few
from graftcli.models import derivation as derived
from graftcli.models.loading import from_code, from_timm, from_torchvision
from graftcli.models.loading.documents import building, check_document
from graftcli.models.loading.plain_file import read_text
from graftcli.models.loading.tensor_file import facts_of, is_written
from graftcli.models.loading.trust import Gate
from graftcli.models.network import ModelRequest, Network, PreprocessDefaults

FORMAT = 1  # of graft.json
FACTS_FILE = "graft.json"
WEIGHTS_FILE = "model.safetensors"
_FIX = "Name a folder, or a .safetensors file, that graftcli wrote."


def complete(network: Network) -> Network:
    """The network, whose origin says all that reading it back needs: its input and its classes too."""
    facts = {
        "name": network.name,
        "input_size": network.input_size,
        "num_classes": network.num_classes,
        "preprocess": asdict(network.preprocess),
    }
    return replace(network, origin=json.loads(json.dumps({**network.origin, **facts})))


def code_in(origin: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The part of an origin that names code of the user's own, if there is one."""
    if origin.get("kind") == "code":
        return origin
    return code_in(origin["base"]) if origin.get("kind") == derived.KIND else None


def rebuild(origin: Mapping[str, Any], gate: Gate | None = None) -> nn.Module:
    """The architecture of an origin, in eval mode, float32, on the CPU; its weights mean nothing.

    `gate` stands between an origin that was read from a document and the code that it names.
    """
    if origin["kind"] == "code":
        return _coded(origin, gate)
    if origin["kind"] == derived.KIND:
        return derived.rebuilt(rebuild(origin["base"], gate), origin)
    name, kind = origin["name"], origin["kind"]
    if kind == "timm" and from_timm.known(name):
        return from_timm.module(name, origin["kwargs"]).float().eval()
    if kind == "torchvision" and name in from_torchvision.names():
        return from_torchvision.module(name, origin["kwargs"]).float().eval()
    found = f"The network `{name}` of the kind `{kind}` is not known here."
    raise CheckpointError(
        found, "Bring graftcli, timm and torchvision to the versions that wrote it, or to newer ones."
    )


def _coded(origin: Mapping[str, Any], gate: Gate | None) -> nn.Module:
    try:
        return from_code.module(origin["where"], origin["call"], origin["kwargs"], gate)
    except (UsageError, PairError) as err:
        if gate is None:
            raise
        raise CheckpointError(f"`{gate.document}` names code that cannot be used: {err.found}", err.mend) from err


def again(origin: Mapping[str, Any], gate: Gate, weights: Path, wishes: ModelRequest) -> Network:
    """The network of a complete origin, before its weights are loaded; the size asked for, if it runs at that."""
    with building(gate.document, size_of(weights)):
        module = rebuild(origin, gate)
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
        preprocess=PreprocessDefaults.read(origin["preprocess"]),
        origin=dict(origin),
    )


def _check_runs(module: nn.Module, size: tuple[int, int, int], who: str) -> None:
    try:
        with torch.no_grad():
            module(torch.zeros(1, *size))
    except Exception as err:  # whatever a network's own code raises at a size that it was not made for
        found = f"{who} does not run on images of {size[1]}x{size[2]}: {type(err).__name__}."
        raise PairError(
            found, "Leave --img-size out, or name the architecture and pass its weights with --checkpoint."
        ) from err


def size_of(weights: Path) -> int:
    """The bytes of a file of weights; 0 where there is none, which reading it reports."""
    return weights.stat().st_size if weights.is_file() else 0


def is_output(path: Path) -> bool:
    """Whether graftcli wrote this folder or file."""
    return (path / FACTS_FILE).is_file() if path.is_dir() else is_written(path)


def no_output(folder: Path, *fixes: str) -> CheckpointError:
    """The error for a folder in which graftcli wrote no network, or has not yet."""
    found = f"The folder `{folder}` is no finished run: it holds no {FACTS_FILE}."
    own = "Run the command of the run again to finish it; of a folder of runs, name one."
    return CheckpointError(found, " ".join((own, *fixes)))


def read_document(path: Path) -> tuple[dict[str, Any], Path]:
    """What the network that graftcli wrote to a folder or file is made of, checked, and the file of its weights."""
    if path.is_dir():
        file, weights = path / FACTS_FILE, path / WEIGHTS_FILE
        document = _json(file, path)
    else:
        file = weights = path
        document = facts_of(path)
    if missing := {"format", "kind", "teacher", "student", "hybrid", "preprocess", "classes"} - set(document):
        raise CheckpointError(
            f"`{file}` does not say what network it holds: {', '.join(sorted(missing))} missing.", _FIX
        )
    if document["format"] != FORMAT:
        found = f"`{file}` has format {document['format']!r}; this graftcli reads format {FORMAT}."
        raise CheckpointError(found, "Update graftcli.")
    check_document(document, file)
    if file != weights and weights.is_file() and is_written(weights):
        _check_same(file, document, weights)
    return document, weights


def _json(file: Path, folder: Path) -> dict[str, Any]:
    try:
        document = json.loads(read_text(file))
        if not isinstance(document, dict):
            raise ValueError(f"it is a {type(document).__name__}, not a map")
        return document
    except FileNotFoundError as err:
        raise no_output(folder) from err
    except OSError as err:
        raise CheckpointError(f"`{file}` cannot be read: {err.strerror or err}.", _FIX) from err
    except (ValueError, RecursionError) as err:
        raise CheckpointError(f"`{file}` is not what graftcli writes: {err}.", _FIX) from err


def _check_same(file: Path, document: Mapping[str, Any], weights: Path) -> None:
    """The document is the one that its weights carry: a change of a mean or a class count would go unnoticed."""
    carried = facts_of(weights)
    differing = sorted(key for key in document if key in carried and carried[key] != document[key])
    if differing:
        names = few([f"`{key}`" for key in differing])
        found = f"`{file}` does not match the metadata of `{weights.name}` beside it: {names}."
        raise CheckpointError(found, f"{_FIX} To rebuild it, run the command of the run again.")


def check_config(folder: Path, pretrained: Mapping[str, Any]) -> None:
    """timm's config.json in a folder that graftcli wrote says of images what the weights beside it say."""
    weights = folder / WEIGHTS_FILE
    if not weights.is_file() or not is_written(weights):
        return
    document = facts_of(weights)
    check_document(document, weights)
    seen = document["preprocess"]
    written = {name: seen[name] for name in ("mean", "std", "crop_pct", "interpolation")}
    written |= {"num_classes": document["classes"], "input_size": [len(seen["mean"]), *seen["size"]]}
    differing = [name for name, value in written.items() if name in pretrained and _listed(pretrained[name]) != value]
    if differing:
        found = (
            f"`{folder / 'config.json'}` does not match the metadata of `{weights.name}` beside it: {few(differing)}."
        )
        raise CheckpointError(found, f"Put it back as it was, or name the folder itself: {folder}.")


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def read_output(path: Path) -> tuple[dict[str, Any], Path]:
    """The origin of the network that graftcli wrote to `path`, and the file of its weights."""
    document, weights = read_document(path)
    if document["kind"] == "hybrid":
        raise CheckpointError(f"`{path}` is partly teacher and partly student.", "Load it with graftcli.load.")
    origin: dict[str, Any] = document["student"]
    return origin, weights
