"""Build a network from a model spec; teacher and student use the same grammar.

    resnet34                        a timm model, else a torchvision model
    timm:resnet34.a1_in1k           torchvision:resnet34@IMAGENET1K_V1 (or tv:)
    hf-hub:org/repo                 local-dir:path
    path/to/file.py:factory         package.module:factory(depth=20)
    model.pth                       a checkpoint that stores the name of its architecture
    runs/small                      a folder or file that graftcli wrote
    teacher*0.5, prune:l1=0.5, …    derived from the teacher (`derive`, see students/)

The number of classes and of input channels come from the flags, else from the weights, else from the teacher (`like`),
else from the network's defaults. Flags, weights and teacher must not contradict each other.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypedDict, Unpack

import torch

from graftcli.errors import CheckpointError, PairError
from graftcli.models.derivation import with_random_weights
from graftcli.models.loading import checkpoint as weights
from graftcli.models.loading import from_timm
from graftcli.models.loading.model_spec import ModelSource, SpecContext, source_of
from graftcli.models.loading.safe_pickle import weights_in
from graftcli.models.loading.saved import complete, rebuild
from graftcli.models.network import ModelRequest, Network, PreprocessDefaults, checkpoint_flag, model_request
from graftcli.models.weights import Weights, WeightsOrigin

__all__ = ["BuildOptions", "Network", "PreprocessDefaults", "build", "rebuild"]

Derive = Callable[[str, Network], Network | None]  # (spec, teacher) -> student; None for other kinds of spec

_RANDOM = "none"  # checkpoint value that selects random weights
_NUMBERS = (("num_classes", "--num-classes", "classes"), ("in_chans", "--in-chans", "input channels"))


class NetworkOptions(TypedDict, total=False):
    """The settings that the flags for networks give; each is None or False by default."""

    num_classes: int | None
    in_chans: int | None
    img_size: int | tuple[int, int] | None
    ema: bool | None  # whether to load the averaged weights of a checkpoint that holds two sets
    unsafe: bool  # whether a checkpoint may run code
    trust_code: bool  # whether to trust the code that a document or a graftcli output names


class BuildOptions(NetworkOptions, total=False):
    """The settings of a network, as keywords of `build`."""

    checkpoint: str | Path | None  # a weights file, or "none"; None: pretrained weights, if the network has a name
    document: Path | None  # where the spec comes from; None: from the user in this call, whose code runs


def build(
    text: str,
    *,
    like: Network | None = None,
    role: str = "teacher",
    derive: Derive | None = None,
    **options: Unpack[BuildOptions],
) -> Network:
    """Build the network of a spec, in eval mode, float32, on the CPU.

    `like` is the teacher of a student. `role` ("teacher", "student", "model") selects the flag names used in messages.
    `derive` makes students from the teacher, with its weights.
    """
    checkpoint, ema, unsafe = options.get("checkpoint"), options.get("ema"), options.get("unsafe", False)
    if like is not None and derive is not None and (student := derive(text, like)) is not None:
        return complete(_with_checkpoint(student, checkpoint, ema, unsafe))
    flag_request = model_request(options.get("num_classes"), options.get("in_chans"), options.get("img_size"))
    teacher_request = like.made_for if like else ModelRequest()
    context = SpecContext(
        None if checkpoint is None else Path(checkpoint),
        role,
        unsafe,
        options.get("trust_code", False),
        options.get("document"),
    )
    source = source_of(text, context)
    file = source.file if checkpoint is None else None if str(checkpoint) == _RANDOM else Path(checkpoint).expanduser()
    if file is not None:
        state = weights.find_state(weights.read(file, unsafe=unsafe), str(file), ema)
        network = replace(_load(source, file, state, flag_request, teacher_request, role), file=weights_file(file))
    else:
        with _seeded(role):
            network = source.make(flag_request | teacher_request)
        if checkpoint is None and source.fetch is not None:
            network = source.fetch(network)
    _check_agreement(network, flag_request, teacher_request)
    return complete(network if like is None else replace(network, preprocess=like.preprocess))


@contextmanager
def _seeded(role: str) -> Iterator[None]:
    """Seed random weights, so that every command builds the same teacher; a student uses the seed of its run."""
    if role == "student":
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def _with_checkpoint(student: Network, checkpoint: str | Path | None, ema: bool | None, unsafe: bool) -> Network:
    """Give a derived student the weights of a checkpoint; by default it keeps the teacher's."""
    if checkpoint is None:
        return student
    if str(checkpoint) == _RANDOM:
        return replace(student, module=with_random_weights(student.module), weights=Weights(WeightsOrigin.RANDOM))
    file = Path(checkpoint).expanduser()
    matched = weights.match(weights.find_state(weights.read(file, unsafe=unsafe), str(file), ema), student.module)
    if not matched.complete:
        raise weights.refusal(matched, str(file), student.name)
    weights.load_into(student.module, matched, file)
    described = f"{file.name}: {matched.count} of {matched.total} tensors"
    return replace(student, weights=Weights(WeightsOrigin.CHECKPOINT, described), file=weights_file(file))


def _load(
    source: ModelSource,
    file: Path,
    state: weights.TensorState,
    flag_request: ModelRequest,
    teacher_request: ModelRequest,
    role: str,
) -> Network:
    """Build the network for the classes and channels of the weights file, and load it."""
    network = source.make(flag_request | teacher_request)
    matched = weights.match(state, network.module)
    inferred = ModelRequest(*weights.infer(matched, network.num_classes, network.input_size[0]))
    if inferred != ModelRequest():
        _check_checkpoint(inferred, flag_request, teacher_request, file, role)
        network = source.make(inferred | flag_request | teacher_request)
        matched = weights.match(state, network.module)
    if not matched.complete and network.source in ("timm", "hf-hub", "local-dir"):
        matched = from_timm.converted(state, network.module) or matched
    if not matched.complete:
        raise weights.refusal(matched, str(file), network.name, source.hint)
    weights.load_into(network.module, matched, file)
    part = f" of `{state.where}`" if state.where in weights.AVERAGED else ""
    described = f"{file.name}: {matched.count} of {matched.total} tensors{part}"
    return replace(network, weights=Weights(WeightsOrigin.CHECKPOINT, described))


def _check_checkpoint(
    inferred: ModelRequest, flag_request: ModelRequest, teacher_request: ModelRequest, file: Path, role: str
) -> None:
    """Refuse a checkpoint whose classes or channels contradict a flag or the teacher."""
    for field, flag, word in _NUMBERS:
        stored, flag_value, teacher_value = (
            getattr(numbers, field) for numbers in (inferred, flag_request, teacher_request)
        )
        if stored is not None and flag_value not in (None, stored):
            message = f"`{file}` has {stored:,} {word}; {flag} is {flag_value:,}."
            raise CheckpointError(message, f"Remove {flag}: the checkpoint sets it.")
        if stored is not None and teacher_value not in (None, stored):
            message = f"The teacher has {teacher_value:,} {word}; the {role} checkpoint `{file}` has {stored:,}."
            raise PairError(
                message,
                f"Give a checkpoint with {teacher_value:,}, or use random weights: {checkpoint_flag(role)} none.",
            )


def _check_agreement(network: Network, flag_request: ModelRequest, teacher_request: ModelRequest) -> None:
    """Refuse a network that ignores the requested classes or channels, as a factory may."""
    for field, flag, word in _NUMBERS:
        actual = getattr(network.made_for, field)
        for requested, requested_by in (
            (getattr(flag_request, field), f"{flag} is"),
            (getattr(teacher_request, field), "the teacher has"),
        ):
            if requested not in (None, actual):
                fix = f"Add a parameter `{field}` to its factory, or name a network with {requested:,} {word}."
                raise PairError(f"`{network.name}` has {actual:,} {word}; {requested_by} {requested:,}.", fix)


def weights_file(path: Path) -> Path:
    """The weights file: `path`, or the one in the folder `path`."""
    return weights_in(path) if path.is_dir() else path
