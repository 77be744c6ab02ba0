"""A user's own network: `path/to/file.py:factory` and `package.module:factory`, with keywords as `factory(depth=20)`.

A file is imported under a private name, its folder importable meanwhile, and its siblings are forgotten again: two
files called `model.py` beside two different `layers.py` are two networks.
"""

import ast
import hashlib
import importlib
import importlib.util
import inspect
import io
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import nn

from graftcli.errors import GraftError, PairError, UsageError
from graftcli.nets.network import IMAGENET, Asked, Network, Preprocess, measured_width

_IMPORT_MEND = "Mend it until Python imports it; a file inside a package is given as package.module:factory."
_SETTINGS = ("pretrained_cfg", "default_cfg")  # where timm's networks and their kin keep what they know of their input
_CROPPED_FROM = 128  # smaller images (CIFAR, MNIST) come in the network's own size: nothing is to be cut off


def keywords(call: str) -> tuple[str, dict[str, Any]]:
    """`factory(depth=20)` -> ("factory", {"depth": 20}). Values are literals: nothing is evaluated."""
    mend = "Write keywords with plain values: factory(depth=20, widths=[16, 32, 64])."
    try:
        node = ast.parse(call.strip(), mode="eval").body
        if isinstance(node, ast.Name):
            return node.id, {}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
            words = {word.arg or "**": ast.literal_eval(word.value) for word in node.keywords}
            if "**" not in words:
                return node.func.id, words
    except (SyntaxError, ValueError) as err:
        raise UsageError(f"`{call}` cannot be read: {err}.", mend) from err
    raise UsageError(f"`{call}` is neither a name nor a call with keywords.", mend)


def network(where: str, call: str, wishes: Asked) -> Network:
    """What the user's factory makes, told of the classes, channels and size where its signature has a word for them."""
    file = Path(where).expanduser().resolve() if is_file(where) else None
    where = str(file) if file else where
    factory, own = keywords(call)
    told = {key: value for key, value in _told(wishes).items() if key not in own and key in _parameters(where, factory)}
    made = module(where, call, told)
    size, preprocess = _input(made, wishes, {**told, **own})
    return Network(
        module=made,
        name=factory,
        source="file" if file else "package",
        weights="as its factory made them",
        input_size=size,
        num_classes=measured_width(made, size),
        preprocess=preprocess.for_channels(size[0]),
        origin={
            "kind": "code",
            "where": where,
            "call": call,
            "kwargs": told,
            "sha256": _sha256(file) if file else None,
        },
    )


def own_weights(network: Network) -> Network:
    """The network with a word on its weights: random ones are others when its factory makes them once more."""
    facts, before = network.origin, network.module.state_dict()
    with torch.random.fork_rng(devices=[]), redirect_stderr(io.StringIO()):  # what it prints it has printed
        torch.manual_seed(1)
        after = module(facts["where"], facts["call"], facts["kwargs"]).state_dict()
    same = before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    return network if same else replace(network, weights="random")


def module(where: str, call: str, told: Mapping[str, Any], sha256: str | None = None) -> nn.Module:
    """The network of a call, in eval mode, float32, on the CPU; a file that is no longer `sha256` is refused."""
    if sha256 and (now := _sha256(Path(where))) != sha256:
        found = f"`{where}` has changed since its network was built: sha256 {sha256[:12]}… then, {now[:12]}… now."
        raise PairError(found, "Put the file back as it was, or start anew with the file as it is now.")
    factory, own = keywords(call)
    make = _find(where, factory)
    mend = "Check the keywords of its call, and --num-classes, --in-chans and --img-size."
    with _running(where, f"`{factory}` made its network", mend), _importable(where):
        made = make(**told, **own)
    if not isinstance(made, nn.Module):
        found = f"`{factory}` in `{where}` made a {type(made).__name__}, not a torch.nn.Module."
        raise PairError(found, "Name a function or class whose call gives the network.")
    return made.float().cpu().eval()


def is_file(where: str) -> bool:
    return where.endswith(".py")


def _told(wishes: Asked) -> dict[str, Any]:
    """The wishes as keywords, a square size as one number, as factories have it."""
    size = wishes.img_size
    edge = size[0] if size and size[0] == size[1] else list(size) if size else None
    wanted = {"num_classes": wishes.num_classes, "in_chans": wishes.in_chans, "img_size": edge}
    return {key: value for key, value in wanted.items() if value is not None}


def _parameters(where: str, factory: str) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(_find(where, factory)).parameters


def _input(made: nn.Module, wishes: Asked, kwargs: Mapping[str, Any]) -> tuple[tuple[int, int, int], Preprocess]:
    """The input a network says it wants: in timm's settings, an attribute `input_size`, its first convolution."""
    settings = next((s for name in _SETTINGS if isinstance(s := getattr(made, name, None), dict)), {})
    stated = (kwargs.get("img_size"), settings.get("input_size"), getattr(made, "input_size", None))
    size = next((size for said in stated if (size := _size(said))), (224, 224))
    first = next((m.in_channels for m in made.modules() if isinstance(m, nn.Conv2d)), wishes.in_chans or 3)
    channels = kwargs.get("in_chans") or (size[0] if len(size) == 3 else first)
    height, width = wishes.img_size or size[-2:]
    said = {key: settings[key] for key in ("mean", "std", "crop_pct", "interpolation") if settings.get(key)}
    said |= {key: tuple(said[key]) for key in ("mean", "std") if key in said}
    said["squash"] = settings.get("crop_mode") == "squash"
    whole = replace(IMAGENET, crop_pct=1.0) if max(height, width) < _CROPPED_FROM else IMAGENET
    return (channels, height, width), replace(whole, **said)


def _size(said: Any) -> tuple[int, ...]:
    """A size as H, W or C, H, W where it is one: 32, (32, 32), [3, 32, 32]."""
    size = (said, said) if isinstance(said, int) else tuple(said) if isinstance(said, list | tuple) else ()
    return size if len(size) in (2, 3) and all(isinstance(edge, int) and edge > 0 for edge in size) else ()


def _find(where: str, factory: str) -> Callable[..., Any]:
    """The factory; where there is none of that name, what could be meant."""
    source = _import_file(Path(where)) if is_file(where) else _import_package(where)
    make: Callable[..., Any] | None = getattr(source, factory, None)
    if callable(make) and not isinstance(make, nn.Module):
        return make
    found = f"`{where}` has no `{factory}`" if make is None else f"`{factory}` in `{where}` is a {type(make).__name__}"
    own = {name: value for name, value in vars(source).items() if getattr(value, "__module__", None) == source.__name__}
    here = [name for name, value in own.items() if isinstance(value, FunctionType | type)]
    raise PairError(f"{found} that makes a network.", f"It has {', '.join(here) or 'no function or class of its own'}.")


def _import_file(file: Path) -> ModuleType:
    """The module of a file, imported once for as long as the file stays the same."""
    name = f"graftcli_user_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}_{_sha256(file)[:8]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None  # the name ends in .py
        sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            with _running(str(file), "it was imported", _IMPORT_MEND), _importable(str(file)):
                exec(compile(file.read_bytes(), file, "exec"), vars(sys.modules[name]))  # never an old __pycache__
        except GraftError:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _import_package(name: str) -> ModuleType:
    """The module of a dotted name; packages in the working directory count, as under `python -m`."""
    with _running(name, "it was imported", _IMPORT_MEND), _importable(name):
        return importlib.import_module(name)


@contextmanager
def _importable(where: str) -> Iterator[None]:
    """The folder of a file, or the working directory, is searched first; a file's siblings are forgotten again."""
    folder, known = str(Path(where).parent if is_file(where) else Path.cwd()), set(sys.modules)
    importlib.invalidate_caches()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
        for name in set(sys.modules) - known if is_file(where) else ():
            if (
                str(getattr(sys.modules[name], "__file__", None) or "").startswith(folder)
                and "graftcli_user" not in name
            ):
                del sys.modules[name]


@contextmanager
def _running(where: str, what: str, mend: str) -> Iterator[None]:
    """A user's code prints to stderr, and whatever stops it becomes one PairError that names the line."""
    try:
        with redirect_stdout(sys.stderr):
            yield
    except GraftError:
        raise
    except (Exception, SystemExit) as err:
        lines = [frame.lineno for frame in traceback.extract_tb(err.__traceback__) if frame.filename == where]
        line = f" at line {lines[-1]}" if lines else ""
        found = f"`{where}` stopped{line} while {what}: {type(err).__name__}: {err}."
        raise PairError(found, mend) from err


def _sha256(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as err:
        raise PairError(
            f"`{file}` cannot be read: {err.strerror or err}.", "Check the path of the network's file."
        ) from err
