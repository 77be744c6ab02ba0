"""What the text of a spec stands for: a maker of networks, and the weights that belong to it."""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from graftcli.errors import CheckpointError, PairError, UsageError
from graftcli.models.loading import checkpoint as weights
from graftcli.models.loading import from_code, from_timm, from_torchvision, pretrained
from graftcli.models.loading import saved as origin
from graftcli.models.loading.documents import building
from graftcli.models.loading.safe_pickle import FOLDER_FILES
from graftcli.models.loading.trust import Gate, Untrusted
from graftcli.models.network import ModelRequest, Network, checkpoint_flag

_PREFIXED = re.compile(r"(timm|torchvision|tv|hf-hub|hf_hub|local-dir):(.+)")
_FILE_CALL = re.compile(r"(.+\.py):(\w+(?:\(.*\))?)", re.DOTALL)
_PACKAGE_CALL = re.compile(r"([A-Za-z_][\w.]*):(\w+(?:\(.*\))?)", re.DOTALL)
_CHECKPOINT_ENDINGS = (".pth", ".pt", ".th", ".tar", ".bin", ".ckpt", ".safetensors", ".pkl")


@dataclass(frozen=True)
class ModelSource:
    """A spec before it is built."""

    make: Callable[[ModelRequest], Network]  # with random weights
    fetch: Callable[[Network], Network] | None = None  # puts pretrained weights in, or says what its own are
    file: Path | None = None  # where its own weights lie
    hint: str = ""  # what else could be meant, should weights not fit


@dataclass(frozen=True)
class SpecContext:
    """What is said beside a spec, and matters to what it stands for."""

    checkpoint: Path | None  # "none" is a path like others here: no weights are called that
    role: str
    unsafe: bool
    trust_code: bool = False
    document: Path | None = None  # which holds the spec; None: the user gave it in this call

    @property
    def gate(self) -> Gate | None:
        """What the code that the spec names has to pass; None for code that the user names and does not record."""
        if self.document is None and not self.trust_code:
            return None
        return Gate(self.document or Path("command line"), self.trust_code)


def source_of(text: str, given: SpecContext) -> ModelSource:
    """What `text` stands for. Names come before files: a folder called resnet18 is ./resnet18."""
    if match := _PREFIXED.fullmatch(text):
        return _prefixed(match[1], match[2], given)
    if match := _FILE_CALL.fullmatch(text):
        return _code(match[1], match[2], given)
    if from_timm.known(text):
        other = f"Or is it torchvision's network of this name: torchvision:{text}?"
        source = _timm(from_timm.registered(text), "timm", given)
        return replace(source, hint=other if text in from_torchvision.names() else "")
    if text in from_torchvision.names():
        return _torchvision(text, given)
    if (path := path_of(text)) or text.endswith(_CHECKPOINT_ENDINGS):
        return _on_disk(path or Path(text).expanduser(), given)
    if match := _PACKAGE_CALL.fullmatch(text):
        return _code(match[1], match[2], given)
    raise _unknown(text)


def _code(where: str, call: str, given: SpecContext) -> ModelSource:
    """A network of the user's own."""
    make = partial(from_code.network, where, call, gate=given.gate)
    return ModelSource(make, partial(from_code.own_weights, gate=given.gate))


def from_anywhere(text: str) -> str:
    """The same spec, whatever folder it is read in: what names a file or folder names it in full."""
    if text.startswith("local-dir:"):
        return f"local-dir:{Path(text.removeprefix('local-dir:')).expanduser().absolute()}"
    if match := _FILE_CALL.fullmatch(text):
        return f"{Path(match[1]).expanduser().absolute()}:{match[2]}"
    path = path_of(text)
    return str(path.absolute()) if path else text


def path_of(text: str) -> Path | None:
    """The file or folder that a spec stands for, if it stands for one that is there and not for a name."""
    named = _PREFIXED.fullmatch(text) or from_timm.known(text) or text in from_torchvision.names()
    path = Path(text).expanduser()
    try:
        return path if text and not named and path.exists() else None
    except OSError:  # a spec of many units is longer than a file's name can be
        return None


def output_of(text: str) -> Path | None:
    """The same where graftcli wrote it."""
    path = path_of(text)
    return path if path and origin.is_output(path) else None


def _prefixed(prefix: str, name: str, given: SpecContext) -> ModelSource:
    if prefix in ("tv", "torchvision"):
        return _torchvision(name, given)
    if prefix in ("hf-hub", "hf_hub"):
        if given.document is not None:
            found = f"`{given.document}` asks for a download: hf-hub:{name}. Files cannot open network connections."
            raise Untrusted(found, f"Name it yourself: --{given.role} hf-hub:{name}.")
        return _timm(pretrained.hub_settings(name, given.role), "hf-hub", given)
    if prefix == "local-dir":
        folder = Path(name).expanduser()
        settings = from_timm.in_folder(folder)
        origin.check_config(folder, settings.pretrained)
        source = _timm(settings, prefix, given)
        return replace(source, make=partial(_from_folder, folder, source.make), fetch=None, file=folder)
    return _timm(from_timm.registered(name), "timm", given)


def _from_folder(folder: Path, make: Callable[[ModelRequest], Network], wishes: ModelRequest) -> Network:
    """A network whose config.json is checked, within the bounds of the weights beside it."""
    with building(folder / "config.json", sum(origin.size_of(folder / name) for name in FOLDER_FILES)):
        return make(wishes)


def _timm(settings: from_timm.TimmSettings, source: str, given: SpecContext) -> ModelSource:
    if not from_timm.known(settings.name):
        raise _unknown(settings.name, "timm")
    return ModelSource(
        make=lambda wishes: from_timm.network(settings, wishes, source),
        fetch=lambda network: pretrained.timm_weights(network, settings, given.role),
    )


def _torchvision(text: str, given: SpecContext) -> ModelSource:
    """torchvision's weights are known by the names of their files too: those say which images they were made for."""
    name, _, variant = text.partition("@")
    if name not in from_torchvision.names():
        raise _unknown(name, "torchvision")
    file = given.checkpoint.name if given.checkpoint else ""
    line = from_torchvision.entry(name, variant, file)
    theirs = given.checkpoint is None or line.url.endswith(f"/{file}")
    return ModelSource(
        make=lambda wishes: from_torchvision.network(name, line, wishes, theirs),
        fetch=lambda network: pretrained.torchvision_weights(network, line, given.role),
    )


def _on_disk(path: Path, given: SpecContext) -> ModelSource:
    """A folder or file that graftcli wrote, or a checkpoint that names its architecture."""
    if path.suffix == ".py":
        raise UsageError(f"`{path}` may hold several networks.", f"Name the function that makes one: {path}:resnet20.")
    if path.exists() and origin.is_output(path):
        facts, file = origin.read_output(path)
        return ModelSource(partial(origin.again, facts, Gate(path, given.trust_code), file), file=file)
    if path.is_dir():
        mend = f"For a folder of timm's: local-dir:{path}. For weights: name the network, and give the file beside it."
        raise origin.no_output(path, mend)
    return _self_named(path, given)


def _self_named(file: Path, given: SpecContext) -> ModelSource:
    """The network that a checkpoint names, for the classes it has; timm's or torchvision's, whichever it fits."""
    saved = weights.read(file, unsafe=given.unsafe)
    name = weights.architecture(saved)
    network = "resnet34" if given.role == "model" else f"--{given.role} resnet34"
    mend = f"Name the network too: {network} {checkpoint_flag(given.role)} {file}."
    if name is None:
        raise CheckpointError(f"`{file}` does not say which network its weights belong to.", mend)
    given = replace(given, checkpoint=file)
    sources = [_timm(from_timm.registered(name), "timm", given)] if from_timm.known(name) else []
    sources += [_torchvision(name, given)] if name in from_torchvision.names() else []
    if not sources:
        raise CheckpointError(f"`{file}` belongs to `{name}`, it says, which neither timm nor torchvision has.", mend)
    readings = [_reading(source, saved) for source in sources]
    source, (_, own) = max(zip(sources, readings, strict=True), key=lambda pair: pair[1][0])  # the first of equals
    return replace(source, make=lambda wishes: source.make(wishes | own), file=file)


def _reading(source: ModelSource, saved: Any) -> tuple[bool, ModelRequest]:
    """Whether network and checkpoint have the same names in them, and what the checkpoint was made for."""
    state = next((held for held in weights.sets_in(saved) if held), weights.TensorState({}))
    network = source.make(ModelRequest())
    matched = weights.match(state, network.module)
    own = ModelRequest(*weights.infer(matched, network.num_classes, network.input_size[0]))
    return not matched.missing and not matched.extra, own


def _unknown(text: str, library: str = "") -> PairError:
    """The error for a name that nobody has, with the nearest that somebody has."""
    known = {"timm": from_timm.names(), "torchvision": from_torchvision.names()}
    names = known.get(library) or sorted({*known["timm"], *known["torchvision"]})
    near = difflib.get_close_matches(text, names, n=4, cutoff=0.5)
    mends = [f"Nearest: {', '.join(near)}."] if near else []
    mends += [f"On the Hugging Face Hub: hf-hub:{text}."] if re.fullmatch(r"[\w.-]+/[\w.-]+", text) else []
    who = f"{library} has no" if library else "Neither timm nor torchvision has a"
    return PairError(
        f"{who} network `{text}`.", " ".join(mends) or "Give one of their names, file.py:factory, or a folder."
    )
