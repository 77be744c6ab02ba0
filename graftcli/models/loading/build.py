"""One grammar for teacher and student: text -> Network.

    resnet34                        timm's, else torchvision's of that name
    timm:resnet34.a1_in1k           torchvision:resnet34@IMAGENET1K_V1 (or tv:)
    hf-hub:org/repo                 local-dir:path
    path/to/file.py:factory         package.module:factory(depth=20)
    model.pth                       a checkpoint that names its architecture
    runs/small                      a folder or file that graftcli wrote
    teacher*0.5, prune:l1=0.5, …    made from the teacher (`derive`, see students/)

The class count and the input channels are what the flags say, else what the weights say, else the teacher's (`like`),
else the network's own. Where two of the first three disagree, the network is refused.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from graftcli.errors import CheckpointError, PairError
from graftcli.models.derivation import afresh
from graftcli.models.loading import checkpoint as weights
from graftcli.models.loading import from_timm
from graftcli.models.loading.model_spec import ModelSource, SpecContext, source_of
from graftcli.models.loading.safe_pickle import weights_in
from graftcli.models.loading.saved import complete, rebuild
from graftcli.models.network import ModelRequest, Network, PreprocessDefaults, asked, checkpoint_flag

__all__ = ["Network", "PreprocessDefaults", "build", "rebuild"]

Derive = Callable[[str, Network], Network | None]  # (spec, teacher) -> the student, where the spec is of that kind

RANDOM = "none"  # the checkpoint that stands for random weights
_NUMBERS = (("num_classes", "--num-classes", "classes"), ("in_chans", "--in-chans", "input channels"))


def build(
    text: str,
    *,
    checkpoint: str | Path | None = None,
    num_classes: int | None = None,
    in_chans: int | None = None,
    img_size: int | tuple[int, int] | None = None,
    ema: bool | None = None,
    unsafe: bool = False,
    trust_code: bool = False,
    document: Path | None = None,
    like: Network | None = None,
    role: str = "teacher",
    derive: Derive | None = None,
) -> Network:
    """The network of a spec, in eval mode, float32, on the CPU.

    `checkpoint` is a file of weights, or "none" for random ones; without it a named network gets its pretrained
    weights. Code runs where the user names it in this call; where `document` holds the spec, or the spec is something
    that graftcli wrote, only files whose bytes are trusted run: `trust_code` trusts them. `like` is the teacher of a
    student; `role` ("teacher", "student", "model") is what the flags are called by. `derive` makes students out of the
    teacher, with its weights.
    """
    if like is not None and derive is not None and (made := derive(text, like)) is not None:
        return complete(_reweighted(made, checkpoint, ema, unsafe))
    flags, teachers = asked(num_classes, in_chans, img_size), like.made_for if like else ModelRequest()
    given = SpecContext(None if checkpoint is None else Path(checkpoint), role, unsafe, trust_code, document)
    source = source_of(text, given)
    file = source.file if checkpoint is None else None if str(checkpoint) == RANDOM else Path(checkpoint).expanduser()
    if file is not None:
        state = weights.find_state(weights.read(file, unsafe=unsafe), str(file), ema)
        network = replace(_loaded(source, file, state, flags, teachers, role), file=weights_file(file))
    else:
        with _chance(role):
            network = source.make(flags | teachers)
        if checkpoint is None and source.fetch is not None:
            network = source.fetch(network)
    _check_agreement(network, flags, teachers)
    return complete(network if like is None else replace(network, preprocess=like.preprocess))


@contextmanager
def _chance(role: str) -> Iterator[None]:
    """Random weights within are the same in every command, so that one teacher is one; a student's are its run's."""
    if role == "student":
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def _reweighted(made: Network, checkpoint: str | Path | None, ema: bool | None, unsafe: bool) -> Network:
    """A derived student with the teacher's weights, with random ones, or with those of a file."""
    if checkpoint is None:
        return made
    if str(checkpoint) == RANDOM:
        return replace(made, module=afresh(made.module), weights="random")
    file = Path(checkpoint).expanduser()
    matched = weights.match(weights.find_state(weights.read(file, unsafe=unsafe), str(file), ema), made.module)
    if not matched.complete:
        raise weights.refusal(matched, str(file), made.name)
    weights.load_into(made.module, matched, file)
    described = f"{file.name}: {matched.count} of {matched.total} tensors"
    return replace(made, weights=described, file=weights_file(file))


def _loaded(
    source: ModelSource, file: Path, state: weights.TensorState, flags: ModelRequest, teachers: ModelRequest, role: str
) -> Network:
    """The network with all the weights of a file, whose class count and input channels it takes over."""
    network = source.make(flags | teachers)
    matched = weights.match(state, network.module)
    own = ModelRequest(*weights.infer(matched, network.num_classes, network.input_size[0]))
    if own != ModelRequest():
        _check_claims(own, flags, teachers, file, role)
        network = source.make(own | flags | teachers)
        matched = weights.match(state, network.module)
    if not matched.complete and network.source in ("timm", "hf-hub", "local-dir"):
        matched = from_timm.converted(state, network.module) or matched
    if not matched.complete:
        raise weights.refusal(matched, str(file), network.name, source.hint)
    weights.load_into(network.module, matched, file)
    part = f" of `{state.where}`" if state.where in weights.AVERAGED else ""
    return replace(network, weights=f"{file.name}: {matched.count} of {matched.total} tensors{part}")


def _check_claims(own: ModelRequest, flags: ModelRequest, teachers: ModelRequest, file: Path, role: str) -> None:
    """What a checkpoint is made for wins over a network's own numbers; against a flag or a teacher it is refused."""
    for field, flag, word in _NUMBERS:
        has, said, taught = (getattr(numbers, field) for numbers in (own, flags, teachers))
        if has is not None and said not in (None, has):
            found = f"`{file}` has {has:,} {word}; {flag} says {said:,}."
            raise CheckpointError(found, f"Leave {flag} out: the checkpoint decides.")
        if has is not None and taught not in (None, has):
            found = f"The teacher has {taught:,} {word}, the {role}'s checkpoint `{file}` has {has:,}."
            raise PairError(found, f"Give a checkpoint with {taught:,}, or none: {checkpoint_flag(role)} none.")


def _check_agreement(network: Network, flags: ModelRequest, teachers: ModelRequest) -> None:
    """The network has the classes and channels that were asked for; a factory may insist on others."""
    for field, flag, word in _NUMBERS:
        has = getattr(network.made_for, field)
        for wanted, asker in ((getattr(flags, field), f"{flag} says"), (getattr(teachers, field), "the teacher has")):
            if wanted not in (None, has):
                mend = f"Give its factory a parameter `{field}`, or name a network that is built with {wanted:,}."
                raise PairError(f"`{network.name}` comes with {has:,} {word}; {asker} {wanted:,}.", mend)


def weights_file(path: Path) -> Path:
    """The file itself, or that of the weights in a folder."""
    return weights_in(path) if path.is_dir() else path
