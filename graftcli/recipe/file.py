"""Find, read, override and validate recipe files. All faults are reported at once, each with file and line.

load("graft", ["stages.finish.lr=1e-3"], steps_scale=0.1)
load(dump) == recipe, where the file `dump` holds the recipe as JSON (a subset of YAML)
"""

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from graftcli.errors import UsageError
from graftcli.recipe import Recipe, scaled
from graftcli.recipe.yaml_source import Loc, YamlFault, YamlSource, dotted, read

_MAX_BYTES = 1_000_000  # of a recipe file
_MAX_ORIGIN = 200  # characters of a `--set` argument that a fault quotes
_SETTING = "--set"  # the place of a fault in an override
_MAX_VALUE = 60  # characters of a value that a fault quotes
_MIN_SCALE, _MAX_SCALE = 1e-6, 10_000


def shipped() -> dict[str, Path]:
    """The built-in recipes, by name: inside the package in a wheel, next to it in a checkout."""
    package = Path(__file__).parent.parent
    folder = next((folder for folder in (package / "recipes", package.parent / "recipes") if folder.is_dir()), package)
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find(name_or_path: str) -> Path:
    """The file of a built-in recipe, or of a path."""
    known, path = shipped(), Path(name_or_path)
    if name_or_path in known:
        return known[name_or_path]
    if path.is_file():
        return path
    near = difflib.get_close_matches(name_or_path, known, n=1)
    raise UsageError(
        f"There is no recipe `{name_or_path}`: it is neither a file nor a built-in recipe ({', '.join(known)}).",
        f"The nearest name is {near[0]}." if near else "Give one of these names, or the path of a YAML file.",
    )


def read_text(path: Path) -> str:
    """The text of a recipe file."""
    try:
        if (size := path.stat().st_size) > _MAX_BYTES:
            found = f"{path} has {size:,} bytes; a recipe may have at most {_MAX_BYTES:,}."
            raise UsageError(found, "A recipe is a YAML file.")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not a text file: byte {error.start} is not UTF-8.", "A recipe is a YAML file."
        ) from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.", "Give a readable file.") from error


def load(name_or_path: str, overrides: Sequence[str] = (), steps_scale: float = 1.0) -> Recipe:
    """Load a recipe by name or path, with `overrides` such as `stages.0.lr=1e-3` and its steps times `steps_scale`."""
    if not _MIN_SCALE <= steps_scale <= _MAX_SCALE:  # also false for NaN
        allowed = f"a number from {_MIN_SCALE:g} to {_MAX_SCALE:,}, for example 0.1 for a tenth of the steps"
        raise UsageError(f"--steps-scale is {steps_scale:g}.", f"Give {allowed}.")
    path = find(name_or_path)
    shown = path.name if name_or_path in shipped() else str(path)
    source = read(read_text(path), lambda line: f"{shown}:{line}")
    for override in overrides:
        _override(source, override)
    return scaled(_validated(source, shown), steps_scale)


def _override(source: YamlSource, text: str) -> None:
    """Apply `PATH=VALUE` to the source; on an error, add a fault to it."""
    origin = f"{_SETTING} {text if len(text) <= _MAX_ORIGIN else f'{text[:_MAX_ORIGIN]}…'}"
    path, equals, value = text.partition("=")
    part = read(value, lambda _: origin)
    source.faults += [replace(fault, subject=f"`{path}`") for fault in part.faults]
    if not equals:
        source.faults.append(YamlFault(origin, "the setting", "has no `=`: write it like stages.0.lr=1e-3"))
    elif isinstance(source.data, dict) and not part.faults:
        try:
            source.put(_loc(source.data, path.strip().split(".")), part)
        except KeyError as error:
            source.faults.append(YamlFault(origin, f"`{path}`", error.args[0]))


def _loc(data: object, path: Sequence[str]) -> Loc:
    """The location of a dotted path; below an absent value, path components are treated as keys."""
    loc: Loc = ()
    for word in path:
        key = _key({} if data is None else data, word)
        data = data[int(key)] if isinstance(data, list) else data.get(key) if isinstance(data, dict) else None
        loc = (*loc, key)
    return loc


def _key(data: object, word: str) -> str | int:
    """The key of a map, or the index of a list item given by its number or its name."""
    if isinstance(data, dict):
        return word
    if not isinstance(data, list):
        raise KeyError(f"cannot be set: {_quoted(data)} has no key `{word}`")
    names = [item.get("name") if isinstance(item, dict) else None for item in data]
    if word in names:
        return names.index(word)
    if word.isdecimal() and int(word) < len(data):
        return int(word)
    known = [*map(str, range(len(data))), *(name for name in names if isinstance(name, str))]
    raise KeyError(f"cannot be set: the list has no item `{word}`; it has {', '.join(known) or 'no items'}")


def _validated(source: YamlSource, shown: str) -> Recipe:
    """The recipe in the source; raises one error with all faults."""
    faults = list(source.faults)
    try:
        recipe = Recipe.model_validate(source.data)
    except ValidationError as error:
        # a value with a YAML fault is read as null, which is not reported in addition
        unread = {fault.subject for fault in faults}
        faults += [fault for fault in map(partial(_fault, source), error.errors()) if fault.subject not in unread]
    if not faults:
        return recipe
    lines = "".join(f"\n  {fault}" for fault in sorted(faults, key=_sort_key))
    raise UsageError(
        f"{_places(faults, shown)} {len(faults)} fault{'s' * (len(faults) > 1)}.{lines}",
        "`graftcli recipes show graft` prints an example; `graftcli recipes validate FILE` checks a file.",
    )


def _places(faults: Sequence[YamlFault], shown: str) -> str:
    """The source of the faults: the recipe, the overrides, or both."""
    in_settings = [fault.where.startswith(f"{_SETTING} ") for fault in faults]
    if all(in_settings):
        return f"{_SETTING} has"
    return f"{shown} and {_SETTING} have" if any(in_settings) else f"{shown} has"


def _sort_key(fault: YamlFault) -> list[str | int]:
    """Sorts `graft.yaml:9` before `graft.yaml:12`."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", fault.where)]


def _fault(source: YamlSource, error: ErrorDetails) -> YamlFault:
    loc = _yaml_loc(error["loc"], source.data)
    match error["type"]:
        case "missing" if isinstance(error["loc"][-1], str):
            message = f"is missing; allowed: {_allowed(loc)}"
        case "extra_forbidden":
            known = _model_at(loc[:-1]).model_fields
            near = difflib.get_close_matches(str(loc[-1]), known, n=1)
            message = (
                f"is an unknown key; did you mean {near[0]}?"
                if near
                else f"is an unknown key; known: {', '.join(known)}"
            )
        case "value_error":
            message = str(error["ctx"]["error"])
        case _:
            message = f"found {_quoted(error['input'])}; allowed: {_allowed(loc)}"
    return YamlFault(source.place(loc), dotted(loc), message)


def _yaml_loc(loc: Loc, data: object) -> Loc:
    """pydantic's location without the index that it adds where a single value stands for a list."""
    for depth, key in enumerate(loc):
        if isinstance(data, list) and isinstance(key, int) and key < len(data):
            data = data[key]
        elif isinstance(key, int):
            return loc[:depth]
        else:
            data = data.get(key) if isinstance(data, dict) else None
    return loc


def _model_at(loc: Loc) -> type[BaseModel]:
    """The model whose fields are the keys at `loc`."""
    model: type[BaseModel] = Recipe
    for key in loc:
        if isinstance(key, str):
            model = _models(model.model_fields[key].annotation)[0]
    return model


def _models(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models(inner)]


def _allowed(loc: Loc) -> str:
    """The values that the field at `loc` accepts."""
    depths = [depth for depth, key in enumerate(loc) if isinstance(key, str)]
    if not depths:
        return "a map with name, about, init and stages"
    field = _model_at(loc[: depths[-1]]).model_fields[str(loc[depths[-1]])]
    if get_origin(field.annotation) is Literal:
        return "one of " + ", ".join(get_args(field.annotation))
    return field.description or ""


def _quoted(value: object) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return "a value that is nested too deeply"
    return text if len(text) <= _MAX_VALUE else text[: _MAX_VALUE - 3] + "..."
