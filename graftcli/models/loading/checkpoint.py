"""Weights: found in whatever object a checkpoint holds, matched with a network by name and shape, loaded whole.

find_state(read(path))  ->  State  ->  match(state, module)  ->  Matched  ->  load_into(module, matched, …)
"""

from argparse import Namespace
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graftcli.errors import CheckpointError
from graftcli.models.loading.safe_pickle import read

__all__ = [
    "CheckpointMatch",
    "TensorState",
    "architecture",
    "find_state",
    "infer",
    "load_into",
    "match",
    "read",
    "refusal",
]

PLAIN = ("state_dict", "model", "model_state_dict", "net", "student", "network", "module", "state")
AVERAGED = ("state_dict_ema", "model_ema", "ema", "ema_state_dict", "model_ema_state_dict", "ema_model", "shadow")
PREFIXES = ("module.", "model.", "_orig_mod.", "backbone.", "encoder.")
# What a checkpoint may hold beyond the network: training-only classifiers, counters of profilers
SPARE_PREFIXES = ("aux1.", "aux2.", "AuxLogits.")
SPARE_ENDINGS = ("total_ops", "total_params")


@dataclass(frozen=True)
class TensorState:
    """The tensors of one network, by the names of whoever saved them."""

    tensors: Mapping[str, Tensor]
    where: str = ""  # the key in the checkpoint that holds them


@dataclass(frozen=True)
class CheckpointMatch:
    """What of a network a checkpoint holds, and what only one of the two has."""

    tensors: Mapping[str, Tensor]  # by the network's names
    total: int  # how many the network has; counters and indices, which its constructor makes, are not counted
    missing: Mapping[str, Tensor]  # in the network only
    extra: Mapping[str, Tensor]  # in the checkpoint only
    differing: Mapping[str, tuple[Tensor, Tensor]]  # in both: the network's, the checkpoint's

    @property
    def count(self) -> int:
        return self.total - len(self.missing) - len(self.differing)

    @property
    def complete(self) -> bool:
        return not (self.missing or self.extra or self.differing)


def find_state(saved: Any, file: str = "the checkpoint", ema: bool | None = None) -> TensorState:
    """The one set of weights in a saved object; `ema` chooses where it holds averaged ones beside the plain ones."""
    plain, averaged = sets_in(saved)
    if plain and averaged and ema is None:
        found = f"`{file}` holds two sets of weights: `{plain.where}` and their running average `{averaged.where}`."
        raise CheckpointError(found, "Say which: --ema takes the average, --no-ema the others.")
    chosen = averaged if ema else plain or (averaged if ema is None else None)
    if chosen is not None:
        return chosen
    held = ", ".join(f"`{key}`" for key in saved) if isinstance(saved, Mapping) else f"a {type(saved).__name__}"
    wanted = {None: "no weights", True: "no averaged weights", False: "no weights but averaged ones"}[ema]
    mend = "Save them with torch.save(net.state_dict(), …)." if ema is None else "Leave --ema and --no-ema out."
    raise CheckpointError(f"`{file}` holds {wanted}, but {held[:300] or 'nothing'}.", mend)


def sets_in(saved: Any) -> tuple[TensorState | None, TensorState | None]:
    """The plain weights in a saved object and the averaged ones, as far as it holds them."""
    if (whole := _tensors(saved)) is not None:
        return TensorState(whole), None
    entries = saved if isinstance(saved, Mapping) else {}
    plain, averaged = next(_held(entries, PLAIN), None), next(_held(entries, AVERAGED), None)
    return plain if plain or averaged else _unnamed(entries), averaged


def _tensors(value: Any) -> Mapping[str, Tensor] | None:
    """The value as named tensors, where it is nothing but that."""
    if isinstance(value, nn.Module):
        value = value.state_dict()
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        return None
    tensors = {key: held for key, held in value.items() if isinstance(held, Tensor)}
    others = [key for key in value if key not in tensors and not key.endswith("_extra_state")]
    return tensors if tensors and not others else None


def _held(entries: Mapping[Any, Any], names: tuple[str, ...], depth: int = 3) -> Iterator[TensorState]:
    """The sets of weights under these names, and under such names below them; a dict may hold itself."""
    for name in names:
        value = entries.get(name)
        if (tensors := _tensors(value)) is not None:
            yield TensorState(tensors, name)
        elif isinstance(value, Mapping) and depth > 1:
            yield from (TensorState(inner.tensors, name) for inner in _held(value, (*PLAIN, *AVERAGED), depth - 1))


def _unnamed(entries: Mapping[Any, Any]) -> TensorState | None:
    """The only set of weights under a name that nobody knows, or the tensors that lie between other things."""
    nested = [
        TensorState(tensors, str(key)) for key, value in entries.items() if (tensors := _tensors(value)) is not None
    ]
    if len(nested) == 1:
        return nested[0]
    loose = {key: value for key, value in entries.items() if isinstance(value, Tensor) and "." in str(key)}
    return TensorState(loose) if loose and not nested else None


def architecture(saved: Any) -> str | None:
    """The name of the network that a checkpoint says it belongs to."""
    if not isinstance(saved, Mapping):
        return None
    settings = [saved, *(saved.get(key) for key in ("args", "cfg", "config", "opt", "hparams", "hyper_parameters"))]
    for entry in settings:
        named = vars(entry) if isinstance(entry, Namespace) else entry if isinstance(entry, Mapping) else {}
        for key in ("arch", "model_name", "architecture", "model"):
            name = named.get(key)
            if isinstance(name, Mapping):
                name = name.get("name") or name.get("arch")
            if isinstance(name, str):
                return name
    return None


def match(state: TensorState, module: nn.Module) -> CheckpointMatch:
    """Tensors and network brought together by name; prefixes fall where that makes the names match."""
    own = module.state_dict()
    renamed = _rename(state.tensors, own)
    extra = {key: tensor for key, tensor in state.tensors.items() if key not in renamed and not _spare(key, tensor)}
    here = {name: state.tensors[key] for key, name in renamed.items()}
    differing = {name: (own[name], tensor) for name, tensor in here.items() if not _alike(own[name], tensor)}
    counted = {name: tensor for name, tensor in own.items() if tensor.is_floating_point()}
    return CheckpointMatch(
        tensors={name: tensor for name, tensor in here.items() if name not in differing},
        total=len(counted),
        missing={name: tensor for name, tensor in counted.items() if name not in here},
        extra=extra,
        differing={name: pair for name, pair in differing.items() if name in counted},
    )


def _rename(keys: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, str]:
    """Each key's name in the network; a key that needs fewer prefixes removed comes first."""
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
    """The key, and the key with one, two, … of the prefixes gone from its front, torch.compile's from anywhere."""
    yield key
    if "_orig_mod." in key:
        yield (key := key.replace("_orig_mod.", ""))
    while prefix := next((p for p in PREFIXES if key.startswith(p)), None):
        yield (key := key.removeprefix(prefix))


def _spare(key: str, tensor: Tensor) -> bool:
    bare = list(_without_prefixes(key))[-1]
    return not tensor.is_floating_point() or bare.startswith(SPARE_PREFIXES) or bare.endswith(SPARE_ENDINGS)


def _alike(own: Tensor, other: Tensor) -> bool:
    return own.shape == other.shape and own.is_floating_point() == other.is_floating_point() and _plain(other)


def _plain(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_meta and not tensor.is_quantized


def shape(tensor: Tensor) -> str:
    """`64x3x7x7`, with the kind of number where it is no float, and the layout where it is not dense."""
    size = "x".join(map(str, tensor.shape)) or "one number"
    words = [str(tensor.dtype)] if not tensor.is_floating_point() else []
    words += ["without data"] if tensor.is_meta else [str(tensor.layout)] if tensor.layout != torch.strided else []
    return " ".join([size, *words]).replace("torch.", "")


def infer(matched: CheckpointMatch, num_classes: int, in_chans: int) -> tuple[int | None, int | None]:
    """The class count and input channels of a checkpoint whose network has `num_classes` and `in_chans`, if others.

    They show as shapes that differ in one dimension alone, the first in a classifier and the second in a stem, or as a
    classifier that only the checkpoint has. What differs otherwise is another network, of which nothing is inferred.
    """
    classes, channels = _classifier_alone(matched.extra), set[int]()
    if matched.missing or (matched.extra and not classes):
        return None, None
    for own, other in matched.differing.values():
        dims = [dim for dim in range(own.ndim) if own.shape[dim] != other.shape[dim]] if own.ndim == other.ndim else []
        if dims == [0] and own.shape[0] == num_classes:
            classes.add(other.shape[0])
        elif dims == [1] and own.ndim in (2, 4) and other.shape[1] * in_chans % own.shape[1] == 0:
            channels.add(other.shape[1] * in_chans // own.shape[1])
        else:
            return None, None
    if len(classes) > 1 or len(channels) > 1:
        return None, None
    return next(iter(classes), None), next(iter(channels), None)


def _classifier_alone(extra: Mapping[str, Tensor]) -> set[int]:
    """The class count, where the tensors are one linear layer: what a network of features lacks at its end."""
    layers = {key.rpartition(".")[0] for key in extra}
    return {tensor.shape[0] for tensor in extra.values() if tensor.ndim == 2} if len(layers) == 1 else set()


def refusal(matched: CheckpointMatch, file: str, name: str, hint: str = "") -> CheckpointError:
    """The error that shows how a checkpoint and a network differ, in both lists and with shapes."""
    pairs = matched.differing.items()
    lists = {
        "In the network only": {name: shape(tensor) for name, tensor in matched.missing.items()},
        "In the checkpoint only": {name: shape(tensor) for name, tensor in matched.extra.items()},
        "In other shapes": {name: f"network {shape(own)}, checkpoint {shape(other)}" for name, (own, other) in pairs},
    }
    lines = [f"{title}: {_listed(entries)}" for title, entries in lists.items() if entries]
    found = f"`{file}` does not fit `{name}`: {matched.count} of its {matched.total} tensors are there."
    other = "Name the network that the checkpoint was saved from; --num-classes, --in-chans and --img-size count too."
    return CheckpointError("\n".join([found, *lines]), hint or other)


def _listed(entries: Mapping[str, str], limit: int = 12) -> str:
    shown = "; ".join(f"{name} ({text})" for name, text in list(entries.items())[:limit])
    return shown + (f"; and {len(entries) - limit} more" if len(entries) > limit else "") + "."


def load_into(module: nn.Module, matched: CheckpointMatch, file: Path | str) -> None:
    """All matched tensors copied into the network, in its own precision; numbers that are not finite are refused."""
    own = module.state_dict()
    for name, tensor in matched.tensors.items():
        bad = int((~torch.isfinite(tensor.float())).sum()) if tensor.is_floating_point() else 0
        if bad and bool(torch.isfinite(own[name]).all()):
            found = (
                f"`{name}` in `{file}` holds {bad} of {tensor.numel()} numbers that are not finite ({tensor.dtype})."
            )
            raise CheckpointError(found, "Save the checkpoint again from a network that works, in float32.")
    module.load_state_dict(dict(matched.tensors), strict=False)
