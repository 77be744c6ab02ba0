"""Load networks that graftcli wrote: students and hybrids."""

import copy
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from graftcli.graft.surgery import hybrid
from graftcli.models.loading import checkpoint as weights
from graftcli.models.loading.bounded_build import building
from graftcli.models.loading.saved import read_document, rebuild, size_of
from graftcli.models.loading.trust import Gate
from graftcli.models.origin import Origin, Role, SavedNetwork
from graftcli.store.atomic import read_tensors


def load(
    path: str | Path,
    *,
    teacher: nn.Module | None = None,
    student: nn.Module | None = None,
    trust_code: bool = False,
) -> nn.Module:
    """Load a network that graftcli wrote, with its weights, in eval mode, float32, on the CPU.

    Parameters:
        path: A run's folder, or a .safetensors file that graftcli wrote.
        teacher: Architecture of the teacher of a hybrid, if it cannot be rebuilt; its weights are not used.
        student: Architecture of the student, if it cannot be rebuilt because it comes from a package or a module.
        trust_code: Run the Python file that builds the network, even if its bytes are not trusted yet.

    Returns:
        The module.

    Raises:
        UsageError: There is no such run or file, or it names code that is not trusted.
        CheckpointError: The file is damaged.

    Example:
        >>> student = graftcli.load("runs/resnet34-resnet18")  # doctest: +SKIP
    """
    path = Path(path).expanduser()
    document, file = read_document(path)
    gate = Gate(path, trust_code)
    tensors, _ = read_tensors(file)
    roles = _roles(document)
    networks = {"teacher": (teacher, document["teacher"]), "student": (student, document["student"])}
    with building(path, size_of(file)):
        modules = {role: _architecture(*networks[role], gate) for role in roles}
        if document["kind"] == "hybrid":
            return _with_weights(
                hybrid.rebuild(modules.get("teacher"), modules.get("student"), document["hybrid"]), tensors, file
            )
    return _with_weights(modules["student"].float().cpu().eval(), tensors, file)


def _architecture(given: nn.Module | None, origin: Origin, gate: Gate) -> nn.Module:
    return rebuild(origin, gate) if given is None else copy.deepcopy(given)


def _roles(document: SavedNetwork) -> list[Role]:
    """Return the networks whose architectures are needed: teacher, student or both."""
    return sorted(set(document["hybrid"]["blocks"])) if document["kind"] == "hybrid" else ["student"]


def _with_weights(module: nn.Module, tensors: Mapping[str, Tensor], file: Path) -> nn.Module:
    """Load the tensors into the module; raise unless they match exactly."""
    match = weights.match(weights.TensorState(tensors), module)
    if not match.complete:
        raise weights.refusal(match, str(file), type(module).__name__)
    weights.load_into(module, match, file)
    return module
