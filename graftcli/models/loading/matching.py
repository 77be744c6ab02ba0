"""Match the tensors of a checkpoint with those of a network, by name and shape."""

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, takewhile

import torch
from torch import Tensor, nn

_PREFIXES = ("module.", "model.", "_orig_mod.", "backbone.", "encoder.")
# Ignored in a checkpoint: auxiliary classifiers, profiler counters
_IGNORED_PREFIXES = ("aux1.", "aux2.", "AuxLogits.")
_IGNORED_SUFFIXES = ("total_ops", "total_params")
_MAX_PREFIX = 8  # largest number of modules in a shared prefix


@dataclass(frozen=True)
class TensorState:
    """A state dict as it was saved."""

    tensors: Mapping[str, Tensor]
    where: str = ""  # the checkpoint key that holds it


@dataclass(frozen=True)
class CheckpointMatch:
    """How the tensors of a checkpoint match those of a network."""

    tensors: Mapping[str, Tensor]  # keyed by the network's names
    total: int  # floating-point tensors of the network; counters and indices are not counted
    missing: Mapping[str, Tensor]  # in the network only
    extra: Mapping[str, Tensor]  # in the checkpoint only
    differing: Mapping[str, tuple[Tensor, Tensor]]  # in both, with different shapes: (network, checkpoint)

    @property
    def count(self) -> int:
        """The network's tensors that the checkpoint has, with their shapes."""
        return self.total - len(self.missing) - len(self.differing)

    @property
    def complete(self) -> bool:
        """Whether both have the same tensors, with the same shapes."""
        return not (self.missing or self.extra or self.differing)


def match(state: TensorState, module: nn.Module) -> CheckpointMatch:
    """Match tensors with a network by name.

    Known prefixes are stripped if the names then match. A prefix that all names share is stripped if more names then
    match.
    """
    expected = module.state_dict()
    found = _match(state.tensors, expected)
    if found.complete:
        return found
    stripped = [
        _match({key.removeprefix(prefix): tensor for key, tensor in state.tensors.items()}, expected)
        for prefix in _shared_prefixes(state.tensors)
    ]
    return max([found, *stripped], key=lambda matched: matched.count)


def _shared_prefixes(tensors: Mapping[str, Tensor]) -> list[str]:
    """The prefixes that the names of all weights share, the shortest first: `net.`, `net.backbone.`."""
    names = [key.split(".")[:-1] for key, tensor in tensors.items() if not _is_ignored(key, tensor)]
    if not names:
        return []
    levels = takewhile(lambda pair: pair[0] == pair[1], zip(min(names), max(names), strict=False))
    parts = [part for part, _ in islice(levels, _MAX_PREFIX)]
    return [".".join([*parts[: depth + 1], ""]) for depth in range(len(parts))]


def _match(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> CheckpointMatch:
    renamed = _rename(tensors, expected)
    extra = {key: tensor for key, tensor in tensors.items() if key not in renamed and not _is_ignored(key, tensor)}
    matched = {name: tensors[key] for key, name in renamed.items()}
    differing = {
        name: (expected[name], tensor) for name, tensor in matched.items() if not _compatible(expected[name], tensor)
    }
    counted = {name: tensor for name, tensor in expected.items() if tensor.is_floating_point()}
    return CheckpointMatch(
        tensors={name: tensor for name, tensor in matched.items() if name not in differing},
        total=len(counted),
        missing={name: tensor for name, tensor in counted.items() if name not in matched},
        extra=extra,
        differing={name: pair for name, pair in differing.items() if name in counted},
    )


def _rename(keys: Iterable[str], names: Container[str]) -> dict[str, str]:
    """Map checkpoint keys to network names; keys with fewer stripped prefixes win."""
    bare = {key: list(_without_prefixes(key)) for key in keys}
    renamed: dict[str, str] = {}
    taken: set[str] = set()
    for depth in range(max(map(len, bare.values()), default=0)):
        for key, forms in bare.items():
            if key not in renamed and depth < len(forms) and forms[depth] in names and forms[depth] not in taken:
                renamed[key] = forms[depth]
                taken.add(forms[depth])
    return renamed


def _without_prefixes(key: str) -> Iterator[str]:
    """The key, then the key with one, two, … prefixes stripped; torch.compile's prefix is removed anywhere."""
    yield key
    if "_orig_mod." in key:
        yield (key := key.replace("_orig_mod.", ""))
    while prefix := next((p for p in _PREFIXES if key.startswith(p)), None):
        yield (key := key.removeprefix(prefix))


def _is_ignored(key: str, tensor: Tensor) -> bool:
    bare = list(_without_prefixes(key))[-1]
    return not tensor.is_floating_point() or bare.startswith(_IGNORED_PREFIXES) or bare.endswith(_IGNORED_SUFFIXES)


def _compatible(expected: Tensor, tensor: Tensor) -> bool:
    return (
        expected.shape == tensor.shape
        and expected.is_floating_point() == tensor.is_floating_point()
        and _is_dense(tensor)
    )


def _is_dense(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_meta and not tensor.is_quantized
