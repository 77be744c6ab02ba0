"""The origin of a network: JSON from which its architecture is rebuilt, and the files that store it.

folder/graft.json           {"student": origin, …}
folder/model.safetensors    the weights, with the same document in the metadata
file.safetensors            a single file with weights and document
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch
from pydantic import JsonValue
from torch import nn

from graftcli.errors import CheckpointError, PairError, UsageError, few
from graftcli.models import derivation as derived
from graftcli.models.loading import from_code, from_timm, from_torchvision, in_memory
from graftcli.models.loading.bounded_build import building
from graftcli.models.loading.documents import check_document
from graftcli.models.loading.plain_file import missing_path, read_text
from graftcli.models.loading.tensor_file import facts_of, is_written
from graftcli.models.loading.trust import Gate
from graftcli.models.network import ModelRequest, Network, PreprocessDefaults
from graftcli.models.origin import CodeOrigin, Origin, SavedNetwork
from graftcli.models.weights import Weights, WeightsOrigin

FORMAT = 1  # of graft.json
FACTS_FILE = "graft.json"
WEIGHTS_FILE = "model.safetensors"
_FIX = "Name a folder or a .safetensors file written by graftcli."


def complete(network: Network) -> Network:
    """Add name, input size, classes and preprocessing to the origin, so that it describes the whole network."""
    description = {
        "name": network.name,
        "input_size": network.input_size,
        "num_classes": network.num_classes,
        "preprocess": asdict(network.preprocess),
    }
    return replace(network, origin=json.loads(json.dumps({**network.origin, **description})))


def user_code_in(origin: Origin) -> CodeOrigin | None:
    """The part of an origin that names user code, or None."""
    if origin["kind"] == "code":
        return origin
    return user_code_in(origin["base"]) if origin["kind"] == derived.KIND else None


def rebuild(origin: Origin, gate: Gate | None = None) -> nn.Module:
    """Rebuild the architecture of an origin, in eval mode, float32, on the CPU, with arbitrary weights.

    `gate` decides which user code an origin from a document may run.
    """
    if origin["kind"] == in_memory.KIND:
        return in_memory.rebuild(origin["key"])
    if origin["kind"] == "code":
        return _rebuild_user_code(origin, gate)
    if origin["kind"] == derived.KIND:
        return derived.rebuild_derived(rebuild(origin["base"], gate), origin)
    name, kind = origin["name"], origin["kind"]
    if kind == "timm" and from_timm.is_registered(name):
        return from_timm.module(name, origin["kwargs"]).float().eval()
    if kind == "torchvision" and name in from_torchvision.names():
        return from_torchvision.module(name, origin["kwargs"]).float().eval()
    message = f"The {kind} network `{name}` is unknown."
    raise CheckpointError(message, "Update graftcli, timm and torchvision to the versions that wrote it, or newer.")


def _rebuild_user_code(origin: CodeOrigin, gate: Gate | None) -> nn.Module:
    try:
        return from_code.module(origin["where"], origin["call"], origin["kwargs"], gate)
    except (UsageError, PairError) as err:
        if gate is None:
            raise
        raise CheckpointError(f"`{gate.document}` names code that cannot be loaded: {err.message}", err.fix) from err


def network_from_origin(origin: Origin, gate: Gate, weights: Path, request: ModelRequest) -> Network:
    """Rebuild the network of a complete origin, without its weights, for the requested image size."""
    with building(gate.document, size_of(weights)):
        module = rebuild(origin, gate)
    channels, *saved_size = origin["input_size"]
    height, width = request.img_size or saved_size
    if (height, width) != tuple(saved_size):
        _check_runs(
            module, (channels, height, width), f"`{origin['name']}`, saved for {saved_size[0]}x{saved_size[1]},"
        )
    return Network(
        module=module,
        name=origin["name"],
        source="graftcli",
        weights=Weights(WeightsOrigin.RANDOM),
        input_size=(channels, height, width),
        num_classes=origin["num_classes"],
        preprocess=PreprocessDefaults.read(origin["preprocess"]),
        origin=origin.copy(),
    )


def _check_runs(module: nn.Module, size: tuple[int, int, int], subject: str) -> None:
    try:
        with torch.no_grad():
            module(torch.zeros(1, *size))
    except Exception as err:  # any exception of the network's code at an unsupported size
        message = f"{subject} does not run on images of {size[1]}x{size[2]}: {type(err).__name__}."
        raise PairError(
            message, "Remove --img-size, or name the architecture and pass its weights with --checkpoint."
        ) from err


def size_of(weights: Path) -> int:
    """The size of a weights file in bytes; 0 if it is missing, which reading it reports."""
    return weights.stat().st_size if weights.is_file() else 0


def is_output(path: Path) -> bool:
    """Whether graftcli wrote this folder or file."""
    return (path / FACTS_FILE).is_file() if path.is_dir() else is_written(path)


def not_an_output(folder: Path, *fixes: str) -> CheckpointError:
    """The error for a folder without a finished network."""
    message = f"The folder `{folder}` is not a finished run: it has no {FACTS_FILE}."
    fix = "To resume an interrupted run, run the same command again; in a folder of runs, name one run."
    return CheckpointError(message, " ".join((fix, *fixes)))


def read_document(path: Path) -> tuple[SavedNetwork, Path]:
    """Read and validate the document of a graftcli output; returns it with the path of the weights."""
    if not path.exists():
        raise missing_path(path)
    if path.is_dir():
        file, weights = path / FACTS_FILE, path / WEIGHTS_FILE
        document = _json(file, path)
    else:
        file = weights = path
        document = facts_of(path)
    if missing := {"format", "kind", "teacher", "student", "hybrid", "preprocess", "classes"} - set(document):
        raise CheckpointError(f"`{file}` does not describe a network: {', '.join(sorted(missing))} missing.", _FIX)
    if document["format"] != FORMAT:
        message = f"`{file}` has format {document['format']!r}; this graftcli reads format {FORMAT}."
        raise CheckpointError(message, "Update graftcli.")
    checked = check_document(document, file)
    if file != weights and weights.is_file() and is_written(weights):
        _check_same(file, document, weights)
    return checked, weights


def _json(file: Path, folder: Path) -> dict[str, JsonValue]:
    try:
        document = json.loads(read_text(file))
        if not isinstance(document, dict):
            raise ValueError(f"it is a {type(document).__name__}, not a JSON object")
        return document
    except FileNotFoundError as err:
        raise not_an_output(folder) from err
    except OSError as err:
        raise CheckpointError(f"`{file}` cannot be read: {err.strerror or err}.", _FIX) from err
    except (ValueError, RecursionError) as err:
        raise CheckpointError(f"`{file}` was not written by graftcli: {err}.", _FIX) from err


def _check_same(file: Path, document: Mapping[str, object], weights: Path) -> None:
    """Refuse a document that differs from the metadata of its weights, for example in a mean."""
    metadata = facts_of(weights)
    differing = sorted(key for key in document if key in metadata and metadata[key] != document[key])
    if differing:
        names = few([f"`{key}`" for key in differing])
        message = f"`{file}` differs from the metadata of `{weights.name}` in the same folder: {names}."
        raise CheckpointError(message, f"{_FIX} To write it again, run the command of the run again.")


def check_config(folder: Path, pretrained: Mapping[str, object]) -> None:
    """Refuse a timm config.json that differs from the metadata of graftcli's weights in the same folder."""
    weights = folder / WEIGHTS_FILE
    if not weights.is_file() or not is_written(weights):
        return
    document = check_document(facts_of(weights), weights)
    preprocess = document["preprocess"]
    written = {
        "mean": preprocess["mean"],
        "std": preprocess["std"],
        "crop_pct": preprocess["crop_pct"],
        "interpolation": preprocess["interpolation"],
        "num_classes": document["classes"],
        "input_size": [len(preprocess["mean"]), *preprocess["size"]],
    }
    differing = [name for name, value in written.items() if name in pretrained and _listed(pretrained[name]) != value]
    if differing:
        message = f"`{folder / 'config.json'}` differs from the metadata of `{weights.name}`: {few(differing)}."
        raise CheckpointError(message, f"Restore the file, or name the folder itself: {folder}.")


def _listed(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def read_output(path: Path) -> tuple[Origin, Path]:
    """Read the origin of the student at `path`; returns it with the path of the weights."""
    document, weights = read_document(path)
    if document["kind"] == "hybrid":
        raise CheckpointError(
            f"`{path}` is a hybrid, partly teacher and partly student.", "Load it with graftcli.load."
        )
    return document["student"], weights
