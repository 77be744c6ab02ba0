"""What graftcli wrote -> the module, students and hybrids alike."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from graftcli.errors import CheckpointError, UsageError
from graftcli.graft import hybrid
from graftcli.nets import weights
from graftcli.nets.grammar import output_of
from graftcli.nets.network import Network, Preprocess
from graftcli.nets.origin import FACTS_FILE, WEIGHTS_FILE, check_trust, no_output, rebuild
from graftcli.nets.spec import build
from graftcli.store import card
from graftcli.store.written import read_facts, read_tensors


def load(path: str | Path, *, unsafe: bool = False) -> nn.Module:
    """The network that graftcli wrote to a folder or file, with its weights, in eval mode, float32, on the CPU.

    A network from a user's own file is made by that file, which has to be what it was. For one from a package say
    `unsafe`: whatever code the package holds now is run.
    """
    path = Path(path).expanduser()
    document, file = read_document(path)
    _check(document, path, unsafe)
    module = _architecture(document)
    tensors, _ = read_tensors(file)
    return _filled(module, tensors, file)


def network_of(
    model: str | Path, *, checkpoint: str | Path | None = None, unsafe: bool = False, **building: Any
) -> Network:
    """What a command names as a model: any spec, and a hybrid that graftcli wrote. `building` is what `build` takes."""
    spec = spec_of(model)
    path = output_of(spec) if checkpoint is None else None
    document = read_document(path)[0] if path else {}
    if path is None or document.get("kind") != "hybrid":
        return build(spec, checkpoint=checkpoint, unsafe=unsafe, **building)
    size = tuple(document["preprocess"]["size"])
    wanted = building.get("img_size")
    if wanted is not None and tuple(wanted) != size:
        made_for = "x".join(map(str, size))
        raise UsageError(f"`{path}` holds a hybrid, which is made for images of {made_for}.", "Leave out --img-size.")
    return Network(
        module=load(path, unsafe=unsafe),
        name=path.stem if path.is_file() else path.name,
        source="graftcli",
        weights=f"{path.name}: as graftcli wrote them",
        input_size=(document["student"]["input_size"][0], *size),
        num_classes=document["classes"],
        preprocess=Preprocess.read(document["preprocess"]),
        origin=document["student"],
    )


def spec_of(model: str | Path) -> str:
    """A Path is a file or folder whatever it is called; a text may be a name."""
    return str(model.expanduser().absolute()) if isinstance(model, Path) else model


def read_document(path: Path) -> tuple[dict[str, Any], Path]:
    """What the network is made of, and the file of its weights."""
    if not path.is_dir():
        return read_facts(path), path
    facts = path / FACTS_FILE
    mend = "Name a folder, or a .safetensors file, that graftcli wrote."
    try:
        document = json.loads(facts.read_text(encoding="utf-8"))
        if not isinstance(document, dict):
            raise ValueError("no map")
        return document, path / WEIGHTS_FILE
    except FileNotFoundError as err:
        raise no_output(path) from err
    except OSError as err:
        raise CheckpointError(f"`{facts}` cannot be read: {err.strerror or err}.", mend) from err
    except ValueError as err:
        raise CheckpointError(f"`{facts}` is not what graftcli writes: {err}.", mend) from err


def _check(document: Mapping[str, Any], path: Path, unsafe: bool) -> None:
    """Whether the document is one that this graftcli reads, and names no code that nobody has vouched for."""
    missing = {"format", "kind", "teacher", "student", "hybrid"} - set(document)
    if missing:
        raise CheckpointError(
            f"`{path}` does not say what network it holds: {', '.join(sorted(missing))} missing.",
            "Name a folder, or a .safetensors file, that graftcli wrote.",
        )
    if document["format"] != card.FORMAT:
        found = f"`{path}` has format {document['format']}; this graftcli reads format {card.FORMAT}."
        raise CheckpointError(found, "Update graftcli.")
    for role in _roles(document):
        check_trust(document[role], path, unsafe)


def _roles(document: Mapping[str, Any]) -> list[str]:
    """Whose architectures the network is made of."""
    return sorted(set(document["hybrid"]["blocks"])) if document["kind"] == "hybrid" else ["student"]


def _architecture(document: Mapping[str, Any]) -> nn.Module:
    made = {role: rebuild(document[role]) for role in _roles(document)}
    if document["kind"] == "student":
        return made["student"]
    return hybrid.rebuild(made.get("teacher"), made.get("student"), document["hybrid"])


def _filled(module: nn.Module, tensors: Mapping[str, Tensor], file: Path) -> nn.Module:
    """The module with all of the tensors, which are all that it has."""
    matched = weights.match(weights.State(tensors), module)
    if not matched.complete:
        raise weights.refusal(matched, str(file), type(module).__name__)
    weights.load_into(module, matched, file)
    return module
