"""What graftcli wrote -> the module, students and hybrids alike."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from graftcli.errors import UsageError
from graftcli.graft.surgery import hybrid
from graftcli.models.loading import checkpoint as weights
from graftcli.models.loading.build import build
from graftcli.models.loading.documents import building
from graftcli.models.loading.model_spec import output_of
from graftcli.models.loading.saved import WEIGHTS_FILE, read_document, rebuild, size_of
from graftcli.models.loading.trust import Gate
from graftcli.models.network import Network, PreprocessDefaults
from graftcli.store.atomic import read_tensors


def load(
    path: str | Path,
    *,
    teacher: nn.Module | None = None,
    student: nn.Module | None = None,
    trust_code: bool = False,
) -> nn.Module:
    """The network that graftcli wrote to a folder or file, with its weights, in eval mode, float32, on the CPU.

    A network of a user's own file is built by that file, if its bytes are trusted; `trust_code` trusts what it is now.
    One of a package is never imported by its name: give the architecture itself as `teacher` or `student`, whose
    weights do not matter.
    """
    path = Path(path).expanduser()
    document, file = read_document(path)
    gate = Gate(path, trust_code)
    given = {"teacher": teacher, "student": student}
    tensors, _ = read_tensors(file)
    roles = _roles(document)
    with building(path, size_of(file)):
        made = {role: _architecture(given[role], document[role], gate) for role in roles}
        if document["kind"] == "hybrid":
            return _filled(hybrid.rebuild(made.get("teacher"), made.get("student"), document["hybrid"]), tensors, file)
    return _filled(made["student"].float().cpu().eval(), tensors, file)


def _architecture(given: nn.Module | None, origin: Mapping[str, Any], gate: Gate) -> nn.Module:
    return rebuild(origin, gate) if given is None else copy.deepcopy(given)


def network_of(
    model: str | Path,
    *,
    checkpoint: str | Path | None = None,
    unsafe: bool = False,
    trust_code: bool = False,
    **more: Any,
) -> Network:
    """What a command names as a model: any spec, and a hybrid that graftcli wrote. `more` is what `build` takes."""
    spec = spec_of(model)
    path = output_of(spec) if checkpoint is None else None
    document = read_document(path)[0] if path else {}
    if path is None or document.get("kind") != "hybrid":
        return build(spec, checkpoint=checkpoint, unsafe=unsafe, trust_code=trust_code, **more)
    size = tuple(document["preprocess"]["size"])
    wanted = more.get("img_size")
    if wanted is not None and tuple(wanted) != size:
        made_for = "x".join(map(str, size))
        raise UsageError(f"`{path}` holds a hybrid, which is made for images of {made_for}.", "Leave out --img-size.")
    return Network(
        module=load(path, trust_code=trust_code),
        name=path.stem if path.is_file() else path.name,
        source="graftcli",
        weights=f"{path.name}: as graftcli wrote them",
        input_size=(document["student"]["input_size"][0], *size),
        num_classes=document["classes"],
        preprocess=PreprocessDefaults.read(document["preprocess"]),
        origin=document["student"],
        file=path / WEIGHTS_FILE if path.is_dir() else path,
    )


def spec_of(model: str | Path) -> str:
    """A Path is a file or folder whatever it is called; a text may be a name."""
    return str(model.expanduser().absolute()) if isinstance(model, Path) else model


def _roles(document: Mapping[str, Any]) -> list[str]:
    """Whose architectures the network is made of."""
    return sorted(set(document["hybrid"]["blocks"])) if document["kind"] == "hybrid" else ["student"]


def _filled(module: nn.Module, tensors: Mapping[str, Tensor], file: Path) -> nn.Module:
    """The module with all of the tensors, which are all that it has."""
    matched = weights.match(weights.TensorState(tensors), module)
    if not matched.complete:
        raise weights.refusal(matched, str(file), type(module).__name__)
    weights.load_into(module, matched, file)
    return module
