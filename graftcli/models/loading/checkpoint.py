"""Find the weights in a checkpoint, match them with a network by name and shape, and load them.

find_state(read(path)) -> TensorState;  match(state, module) -> CheckpointMatch;  load_into(module, matched, file)
"""

from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from graftcli.errors import CheckpointError
from graftcli.models.loading.matching import CheckpointMatch, TensorState, match
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

# The keys under which checkpoints wrap plain and averaged (EMA) weights, in order of precedence.
PLAIN = ("state_dict", "model", "model_state_dict", "net", "student", "network", "module", "state")
AVERAGED = ("state_dict_ema", "model_ema", "ema", "ema_state_dict", "model_ema_state_dict", "ema_model", "shadow")
WRAPPERS = (*PLAIN, *AVERAGED)


def find_state(saved: object, file: str = "the checkpoint", ema: bool | None = None) -> TensorState:
    """The state dict in a saved object; `ema` chooses between averaged (True) and plain weights (False)."""
    plain, averaged = sets_in(saved)
    if plain and averaged and ema is None:
        message = f"`{file}` holds two sets of weights: `{plain.where}` and the averaged `{averaged.where}`."
        raise CheckpointError(message, "Choose one: --ema loads the averaged weights, --no-ema the plain ones.")
    chosen = averaged if ema else plain or (averaged if ema is None else None)
    if chosen is not None:
        return chosen
    content = ", ".join(f"`{key}`" for key in saved) if isinstance(saved, Mapping) else f"a {type(saved).__name__}"
    missing = {None: "no weights", True: "no averaged weights", False: "only averaged weights"}[ema]
    fix = "Save them with torch.save(net.state_dict(), …)." if ema is None else "Remove --ema or --no-ema."
    raise CheckpointError(f"`{file}` holds {missing}; it holds {content[:300] or 'nothing'}.", fix)


def sets_in(saved: object) -> tuple[TensorState | None, TensorState | None]:
    """The plain and the averaged state dict in a saved object; None for what it lacks."""
    if (tensors := _tensors(saved)) is not None:
        return TensorState(tensors), None
    entries = saved if isinstance(saved, Mapping) else {}
    plain, averaged = next(_nested(entries, PLAIN), None), next(_nested(entries, AVERAGED), None)
    return plain if plain or averaged else _from_unknown_key(entries), averaged


def _tensors(value: object) -> Mapping[str, Tensor] | None:
    """The value as a state dict, or None if it holds anything besides named tensors."""
    if isinstance(value, nn.Module):
        value = value.state_dict()
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        return None
    tensors = {key: tensor for key, tensor in value.items() if isinstance(tensor, Tensor)}
    others = [key for key in value if key not in tensors and not key.endswith("_extra_state")]
    return tensors if tensors and not others else None


def _nested(entries: Mapping[object, object], names: tuple[str, ...], depth: int = 3) -> Iterator[TensorState]:
    """The state dicts under these keys, and nested below them; `depth` bounds the recursion."""
    for name in names:
        value = entries.get(name)
        if (tensors := _tensors(value)) is not None:
            yield TensorState(tensors, name)
        elif isinstance(value, Mapping) and depth > 1:
            yield from (TensorState(inner.tensors, name) for inner in _nested(value, WRAPPERS, depth - 1))


def _from_unknown_key(entries: Mapping[object, object]) -> TensorState | None:
    """The only state dict under an unknown key, or the tensors that are saved next to other values."""
    nested = [
        TensorState(tensors, str(key)) for key, value in entries.items() if (tensors := _tensors(value)) is not None
    ]
    if len(nested) == 1:
        return nested[0]
    loose = {str(key): value for key, value in entries.items() if isinstance(value, Tensor) and "." in str(key)}
    return TensorState(loose) if loose and not nested else None


def architecture(saved: object) -> str | None:
    """The architecture name stored in a checkpoint, if any."""
    if not isinstance(saved, Mapping):
        return None
    settings = [saved, *(saved.get(key) for key in ("args", "cfg", "config", "opt", "hparams", "hyper_parameters"))]
    for entry in settings:
        fields = vars(entry) if isinstance(entry, Namespace) else entry if isinstance(entry, Mapping) else {}
        for key in ("arch", "model_name", "architecture", "model"):
            name = fields.get(key)
            if isinstance(name, Mapping):
                name = name.get("name") or name.get("arch")
            if isinstance(name, str):
                return name
    return None


def shape(tensor: Tensor) -> str:
    """Format a shape as `64x3x7x7`, with the dtype if not floating point and the layout if not dense."""
    size = "x".join(map(str, tensor.shape)) or "scalar"
    parts = [str(tensor.dtype)] if not tensor.is_floating_point() else []
    parts += ["without data"] if tensor.is_meta else [str(tensor.layout)] if tensor.layout != torch.strided else []
    return " ".join([size, *parts]).replace("torch.", "")


def infer(matched: CheckpointMatch, num_classes: int, in_chans: int) -> tuple[int | None, int | None]:
    """Infer the classes and input channels of a checkpoint if they differ from the network's; else None.

    They are inferred from shapes that differ in one dimension only: the first in a classifier, the second in a stem. A
    classifier that only the checkpoint has counts too. Any other difference means a different architecture, and nothing
    is inferred.
    """
    classes, channels = _classifier_alone(matched.extra), set[int]()
    if matched.missing or (matched.extra and not classes):
        return None, None
    for expected, tensor in matched.differing.values():
        dims = (
            [dim for dim in range(expected.ndim) if expected.shape[dim] != tensor.shape[dim]]
            if expected.ndim == tensor.ndim
            else []
        )
        if dims == [0] and expected.shape[0] == num_classes:
            classes.add(tensor.shape[0])
        elif dims == [1] and expected.ndim in (2, 4) and tensor.shape[1] * in_chans % expected.shape[1] == 0:
            channels.add(tensor.shape[1] * in_chans // expected.shape[1])
        else:
            return None, None
    if len(classes) > 1 or len(channels) > 1:
        return None, None
    return next(iter(classes), None), next(iter(channels), None)


def _classifier_alone(extra: Mapping[str, Tensor]) -> set[int]:
    """The number of classes, if the extra tensors are one linear layer: the head that a backbone lacks."""
    layers = {key.rpartition(".")[0] for key in extra}
    return {tensor.shape[0] for tensor in extra.values() if tensor.ndim == 2} if len(layers) == 1 else set()


def refusal(matched: CheckpointMatch, file: str, name: str, hint: str = "") -> CheckpointError:
    """The error that lists how a checkpoint and a network differ, with shapes."""
    pairs = matched.differing.items()
    lists = {
        "In the network only": {name: shape(tensor) for name, tensor in matched.missing.items()},
        "In the checkpoint only": {name: shape(tensor) for name, tensor in matched.extra.items()},
        "Different shapes": {
            name: f"network {shape(expected)}, checkpoint {shape(tensor)}" for name, (expected, tensor) in pairs
        },
    }
    lines = [f"{title}: {_format_entries(entries)}" for title, entries in lists.items() if entries]
    summary = f"`{file}` does not fit `{name}`: {_summary(matched)}."
    tensor = "Name the network that the checkpoint was saved from; check --num-classes, --in-chans and --img-size."
    return CheckpointError("\n".join([summary, *lines]), hint or tensor)


def _summary(matched: CheckpointMatch) -> str:
    """How many tensors match, and what it means if one side has no unmatched tensors."""
    counted = f"{matched.count} of its {matched.total} tensors match"
    if matched.differing or not matched.count:
        return counted
    if not matched.missing:
        left = f"{len(matched.extra)} of the file are left over"
        return f"{counted}, {left}: the network is shallower than the one that the weights belong to"
    if not matched.extra:
        return f"{counted}, and that is all of the file: the network is deeper than the one that the weights belong to"
    return counted


def _format_entries(entries: Mapping[str, str], limit: int = 12) -> str:
    text = "; ".join(f"{name} ({value})" for name, value in list(entries.items())[:limit])
    return text + (f"; and {len(entries) - limit} more" if len(entries) > limit else "") + "."


def load_into(module: nn.Module, matched: CheckpointMatch, file: Path | str) -> None:
    """Copy the matched tensors into the network, in its dtype; refuse NaN and infinity."""
    state = module.state_dict()
    for name, tensor in matched.tensors.items():
        bad = int((~torch.isfinite(tensor.float())).sum()) if tensor.is_floating_point() else 0
        if bad and bool(torch.isfinite(state[name]).all()):
            message = (
                f"`{name}` in `{file}` holds NaN or infinity in {bad} of {tensor.numel()} values ({tensor.dtype})."
            )
            raise CheckpointError(
                message, "Save the checkpoint again in float32, from a network that trained without overflow."
            )
    module.load_state_dict(dict(matched.tensors), strict=False)
