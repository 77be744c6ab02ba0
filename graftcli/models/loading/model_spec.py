"""Resolve a model spec to a function that builds the network and the source of its weights."""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from graftcli.errors import CheckpointError, PairError, UsageError
from graftcli.models.loading import checkpoint as weights
from graftcli.models.loading import from_code, from_timm, from_torchvision, in_memory, pretrained
from graftcli.models.loading import saved as origin
from graftcli.models.loading.bounded_build import building
from graftcli.models.loading.plain_file import missing_path
from graftcli.models.loading.safe_pickle import FOLDER_FILES
from graftcli.models.loading.trust import Gate, Untrusted
from graftcli.models.network import ModelRequest, Network, checkpoint_flag

_PREFIXED = re.compile(r"(timm|torchvision|tv|hf-hub|hf_hub|local-dir):(.+)")
_FILE_CALL = re.compile(r"(.+\.py):(\w+(?:\(.*\))?)", re.DOTALL)
_PACKAGE_CALL = re.compile(r"([A-Za-z_][\w.]*):(\w+(?:\(.*\))?)", re.DOTALL)
CHECKPOINT_ENDINGS = (".pth", ".pt", ".th", ".tar", ".bin", ".ckpt", ".safetensors", ".pkl")
ONNX_ENDING = ".onnx"


@dataclass(frozen=True)
class ModelSource:
    """A resolved spec, before the network is built."""

    make: Callable[[ModelRequest], Network]  # builds the network with random weights
    fetch: Callable[[Network], Network] | None = None  # loads pretrained weights, or describes the existing ones
    file: Path | None = None  # the weights file that belongs to the spec
    hint: str = ""  # suggestion if the weights do not fit


@dataclass(frozen=True)
class SpecContext:
    """The options that decide how a spec is resolved."""

    checkpoint: Path | None  # may be Path("none")
    role: str
    unsafe: bool
    trust_code: bool = False
    document: Path | None = None  # the document that holds the spec; None if the user gave it in this call

    @property
    def gate(self) -> Gate | None:
        """The gate for code that the spec names; None for code that the user names in this call."""
        if self.document is None and not self.trust_code:
            return None
        return Gate(self.document or Path("command line"), self.trust_code)


def source_of(text: str, context: SpecContext) -> ModelSource:
    """Resolve a spec. Model names take precedence over paths: write a folder named resnet18 as ./resnet18."""
    if text.startswith(in_memory.PREFIX):
        return ModelSource(partial(in_memory.network, text.removeprefix(in_memory.PREFIX)), lambda network: network)
    if match := _PREFIXED.fullmatch(text):
        return _prefixed(match[1], match[2], context)
    if match := _FILE_CALL.fullmatch(text):
        return _code(match[1], match[2], context)
    if from_timm.is_registered(text):
        hint = f"Or did you mean torchvision's model of this name: torchvision:{text}?"
        source = _timm(from_timm.registered(text), "timm", context)
        return replace(source, hint=hint if text in from_torchvision.names() else "")
    if text in from_torchvision.names():
        return _torchvision(text, context)
    if text.endswith(ONNX_ENDING):
        raise _onnx_file(text, context.role)
    if (path := path_of(text)) or text.endswith(CHECKPOINT_ENDINGS):
        return _on_disk(path or Path(text).expanduser(), context)
    if match := _PACKAGE_CALL.fullmatch(text):
        return _code(match[1], match[2], context)
    raise missing_path(Path(text).expanduser()) if _is_local(text) else _unknown(text)


def _onnx_file(text: str, role: str) -> UsageError:
    """The refusal of an ONNX file where a network of PyTorch is needed."""
    found = f"--{role} {text}" if role in ("teacher", "student") else f"`{text}`"
    return UsageError(
        f"{found} is an ONNX file: it runs in `graftcli eval` and `graftcli bench`, and cannot be cut, trained or"
        " exported again.",
        "Give the network that was exported: a run, its model.safetensors, or a model spec with its checkpoint.",
    )


def _code(where: str, call: str, context: SpecContext) -> ModelSource:
    """A network from user code."""
    make = partial(from_code.network, where, call, gate=context.gate)
    return ModelSource(make, partial(from_code.mark_random_weights, gate=context.gate))


def may_be_code(text: str) -> bool:
    """Whether a spec has the form of user code, or is a module that was passed from Python."""
    forms = (_FILE_CALL, _PACKAGE_CALL)
    named = _PREFIXED.fullmatch(text) is not None
    return text.startswith(in_memory.PREFIX) or (not named and any(form.fullmatch(text) for form in forms))


def absolute_spec(text: str) -> str:
    """Make the path in a spec absolute, so that the spec is valid in any working directory."""
    if text.startswith("local-dir:"):
        return f"local-dir:{Path(text.removeprefix('local-dir:')).expanduser().absolute()}"
    if match := _FILE_CALL.fullmatch(text):
        return f"{Path(match[1]).expanduser().absolute()}:{match[2]}"
    path = path_of(text)
    return str(path.absolute()) if path else text


def path_of(text: str) -> Path | None:
    """The existing file or folder that a spec names; None if the spec is a model name."""
    named = _PREFIXED.fullmatch(text) or from_timm.is_registered(text) or text in from_torchvision.names()
    path = Path(text).expanduser()
    try:
        return path if text and not named and path.exists() else None
    except OSError:  # a long spec exceeds the length of a file name
        return None


def output_of(text: str) -> Path | None:
    """The file or folder that a spec names, if graftcli wrote it."""
    path = path_of(text)
    return path if path and origin.is_output(path) else None


def _prefixed(prefix: str, name: str, context: SpecContext) -> ModelSource:
    if prefix in ("tv", "torchvision"):
        return _torchvision(name, context)
    if prefix in ("hf-hub", "hf_hub"):
        if context.document is not None:
            message = (
                f"`{context.document}` requests a download: hf-hub:{name}. Documents cannot open network connections."
            )
            raise Untrusted(message, f"Name it on the command line: --{context.role} hf-hub:{name}.")
        return _timm(pretrained.hub_settings(name, context.role), "hf-hub", context)
    if prefix == "local-dir":
        folder = Path(name).expanduser()
        settings = from_timm.in_folder(folder)
        origin.check_config(folder, settings.pretrained)
        source = _timm(settings, prefix, context)
        return replace(source, make=partial(_from_folder, folder, source.make), fetch=None, file=folder)
    return _timm(from_timm.registered(name), "timm", context)


def _from_folder(folder: Path, make: Callable[[ModelRequest], Network], request: ModelRequest) -> Network:
    """Build the network of a local folder; the size of its weights bounds its tensors."""
    with building(folder / "config.json", sum(origin.size_of(folder / name) for name in FOLDER_FILES)):
        return make(request)


def _timm(settings: from_timm.TimmSettings, source: str, context: SpecContext) -> ModelSource:
    if not from_timm.is_registered(settings.name):
        raise _unknown(settings.name, "timm")
    return ModelSource(
        make=lambda request: from_timm.network(settings, request, source),
        fetch=lambda network: pretrained.timm_weights(network, settings, context.role),
    )


def _torchvision(text: str, context: SpecContext) -> ModelSource:
    """A torchvision model; a checkpoint with the file name of known weights selects their preprocessing."""
    name, _, variant = text.partition("@")
    if name not in from_torchvision.names():
        raise _unknown(name, "torchvision")
    file = context.checkpoint.name if context.checkpoint else ""
    entry = from_torchvision.entry(name, variant, file)
    loads_entry = context.checkpoint is None or entry.url.endswith(f"/{file}")
    return ModelSource(
        make=lambda request: from_torchvision.network(name, entry, request, loads_entry),
        fetch=lambda network: pretrained.torchvision_weights(network, entry, context.role),
    )


def _on_disk(path: Path, context: SpecContext) -> ModelSource:
    """A graftcli output, or a checkpoint that stores the name of its architecture."""
    if path.suffix == ".py":
        raise UsageError(
            f"`{path}` may define several networks.", f"Name the function that builds one: {path}:resnet20."
        )
    if path.exists() and origin.is_output(path):
        stored, file = origin.read_output(path)
        return ModelSource(partial(origin.network_from_origin, stored, Gate(path, context.trust_code), file), file=file)
    if path.is_dir():
        fix = f"For a timm folder: local-dir:{path}. For weights: name the network and pass the file as its checkpoint."
        raise origin.not_an_output(path, fix)
    return _from_checkpoint(path, context)


def _from_checkpoint(file: Path, context: SpecContext) -> ModelSource:
    """The network that a checkpoint names, from timm or torchvision, whichever fits."""
    saved = weights.read(file, unsafe=context.unsafe)
    name = weights.architecture(saved)
    flag = "resnet34" if context.role == "model" else f"--{context.role} resnet34"
    fix = f"Name the network as well: {flag} {checkpoint_flag(context.role)} {file}."
    if name is None:
        raise CheckpointError(f"`{file}` does not store the name of its architecture.", fix)
    context = replace(context, checkpoint=file)
    sources = [_timm(from_timm.registered(name), "timm", context)] if from_timm.is_registered(name) else []
    sources += [_torchvision(name, context)] if name in from_torchvision.names() else []
    if not sources:
        raise CheckpointError(f"`{file}` names the architecture `{name}`, which neither timm nor torchvision has.", fix)
    results = [_try_source(source, saved) for source in sources]
    source, (_, inferred) = max(
        zip(sources, results, strict=True), key=lambda pair: pair[1][0]
    )  # the first if both match equally well
    return replace(source, make=lambda request: source.make(request | inferred), file=file)


def _try_source(source: ModelSource, saved: object) -> tuple[bool, ModelRequest]:
    """Whether the tensor names match, and the classes and channels inferred from the checkpoint."""
    state = next((state for state in weights.sets_in(saved) if state), weights.TensorState({}))
    network = source.make(ModelRequest())
    matched = weights.match(state, network.module)
    inferred = ModelRequest(*weights.infer(matched, network.num_classes, network.input_size[0]))
    return not matched.missing and not matched.extra, inferred


def _is_local(text: str) -> bool:
    """Whether an unknown spec is meant as a path: it begins like one, or its folder exists."""
    try:
        return text.startswith((".", "/", "~", "runs/")) or ("/" in text and Path(text).parent.is_dir())
    except OSError:  # a long spec exceeds the length of a file name
        return False


def _unknown(text: str, library: str = "") -> PairError:
    """The error for an unknown model name, with the nearest known names."""
    registered = {"timm": from_timm.names(), "torchvision": from_torchvision.names()}
    names = registered.get(library) or sorted({*registered["timm"], *registered["torchvision"]})
    nearest = [] if "/" in text else difflib.get_close_matches(text, names, n=4, cutoff=0.5)
    fixes = [f"Nearest: {', '.join(nearest)}."] if nearest else []
    fixes += [f"On the Hugging Face Hub: hf-hub:{text}."] if re.fullmatch(r"[\w.-]+/[\w.-]+", text) else []
    subject = f"{library} has no" if library else "Neither timm nor torchvision has a"
    path = ", and there is no file or folder of this name" if "/" in text else ""
    return PairError(
        f"{subject} network `{text}`{path}.",
        " ".join(fixes) or "Give a timm or torchvision model name, file.py:factory, or a folder.",
    )
