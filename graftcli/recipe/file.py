"""A recipe as a file: found, read, overridden and checked. All its faults are reported at once, with places.

load("graft", ["stages.finish.lr=1e-3"], steps_scale=0.1)
load(dump) == recipe, where the file `dump` holds the recipe as JSON, which is YAML too
"""

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from graftcli.errors import UsageError
from graftcli.recipe import Recipe, scaled
from graftcli.recipe.yaml_source import Loc, YamlFault, YamlSource, dotted, read

_LARGEST = 1_000_000  # bytes of a recipe's file
_LONGEST_ORIGIN = 200  # characters of a setting that a fault shows
_LEAST_SCALE, _MOST_SCALE = 1e-6, 10_000


def shipped() -> dict[str, Path]:
    """The recipes that come with graftcli, by name: inside the package in a wheel, beside the package in a checkout."""
    package = Path(__file__).parent.parent
    folder = next((folder for folder in (package / "recipes", package.parent / "recipes") if folder.is_dir()), package)
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find(name_or_path: str) -> Path:
    """The file of a shipped recipe's name, or of a path."""
    known, path = shipped(), Path(name_or_path)
    if name_or_path in known:
        return known[name_or_path]
    if path.is_file():
        return path
    near = difflib.get_close_matches(name_or_path, known, n=1)
    raise UsageError(
        f"There is no recipe `{name_or_path}`, neither a file nor one that graftcli brings: {', '.join(known)}.",
        f"The nearest name is {near[0]}." if near else "Give one of these names, or the path of a YAML file.",
    )


def text_of(path: Path) -> str:
    """The text of a recipe's file."""
    try:
        if (size := path.stat().st_size) > _LARGEST:
            found = f"{path} has {size:,} bytes; a recipe has at most {_LARGEST:,}."
            raise UsageError(found, "A recipe is a YAML file.")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not a text file: byte {error.start} is not UTF-8.", "A recipe is a YAML file."
        ) from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.", "Give a file that you may read.") from error


def load(name_or_path: str, overrides: Sequence[str] = (), steps_scale: float = 1.0) -> Recipe:
    """The recipe of that name or file, with `overrides` as `stages.0.lr=1e-3`, and `steps_scale` of its steps."""
    if not _LEAST_SCALE <= steps_scale <= _MOST_SCALE:  # so is a NaN
        allowed = f"a number from {_LEAST_SCALE:g} to {_MOST_SCALE:,}, as 0.1 for a tenth of the steps"
        raise UsageError(f"--steps-scale is {steps_scale:g}.", f"Give {allowed}.")
    path = find(name_or_path)
    shown = path.name if name_or_path in shipped() else str(path)
    source = read(text_of(path), lambda line: f"{shown}:{line}")
    for override in overrides:
        _override(source, override)
    return scaled(_checked(source, shown), steps_scale)


def _override(source: YamlSource, text: str) -> None:
    """Put the value of `PATH=VALUE` into the source; what cannot be put becomes a fault of it."""
    origin = f"--set {text if len(text) <= _LONGEST_ORIGIN else f'{text[:_LONGEST_ORIGIN]}…'}"
    path, equals, value = text.partition("=")
    part = read(value, lambda _: origin)
    source.faults += [replace(fault, subject=f"`{path}`") for fault in part.faults]
    if not equals:
        source.faults.append(YamlFault(origin, "the setting", "has no `=`: write it as stages.0.lr=1e-3"))
    elif isinstance(source.data, dict) and not part.faults:
        try:
            source.put(_loc(source.data, path.strip().split(".")), part)
        except KeyError as error:
            source.faults.append(YamlFault(origin, f"`{path}`", error.args[0]))


def _loc(here: Any, words: Sequence[str]) -> Loc:
    """The keys that lead along `words`; below what is absent they are the words themselves."""
    loc: Loc = ()
    for word in words:
        key = _key({} if here is None else here, word)
        here = here[int(key)] if isinstance(here, list) else (here or {}).get(key)
        loc = (*loc, key)
    return loc


def _key(here: Any, word: str) -> str | int:
    """The key that `word` is in a map; in a list, the index of that number or of the item with that name."""
    if isinstance(here, dict):
        return word
    if not isinstance(here, list):
        raise KeyError(f"goes below {_shown(here)}, which has no parts such as `{word}`")
    names = [item.get("name") if isinstance(item, dict) else None for item in here]
    if word in names:
        return names.index(word)
    if word.isdecimal() and int(word) < len(here):
        return int(word)
    known = [*map(str, range(len(here))), *(name for name in names if isinstance(name, str))]
    raise KeyError(f"finds no `{word}` in the list; it has {', '.join(known) or 'no items'}")


def _checked(source: YamlSource, shown: str) -> Recipe:
    """The recipe that the source describes, if it has no fault."""
    faults = list(source.faults)
    try:
        recipe = Recipe.model_validate(source.data)
    except ValidationError as error:
        # what could not be read is null: that null is not allowed there is no news
        unread = {fault.subject for fault in faults}
        faults += [fault for fault in map(partial(_fault, source), error.errors()) if fault.subject not in unread]
    if not faults:
        return recipe
    lines = "".join(f"\n  {fault}" for fault in sorted(faults, key=_line))
    raise UsageError(
        f"{shown} has {len(faults)} fault{'s' * (len(faults) > 1)}.{lines}",
        "`graftcli recipes show graft` prints a recipe as an example; `graftcli recipes validate FILE` checks yours.",
    )


def _line(fault: YamlFault) -> list[str | int]:
    """`graft.yaml:9` comes before `graft.yaml:12`."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", fault.where)]


def _fault(source: YamlSource, error: ErrorDetails) -> YamlFault:
    loc = _written(error["loc"], source.data)
    match error["type"]:
        case "missing" if isinstance(error["loc"][-1], str):
            said = f"is missing; allowed: {_allowed(loc)}"
        case "extra_forbidden":
            known = _part(loc[:-1]).model_fields
            near = difflib.get_close_matches(str(loc[-1]), known, n=1)
            said = f"is no key here; the nearest is {near[0]}" if near else f"is no key here; known: {', '.join(known)}"
        case "value_error":
            said = str(error["ctx"]["error"])
        case _:
            said = f"found {_shown(error['input'])}; allowed: {_allowed(loc)}"
    return YamlFault(source.place(loc), dotted(loc), said)


def _written(loc: Loc, data: Any) -> Loc:
    """The place as it was written: where one value stands for a list, pydantic counts an item that is not there."""
    for depth, key in enumerate(loc):
        if isinstance(data, list) and isinstance(key, int) and key < len(data):
            data = data[key]
        elif isinstance(key, int):
            return loc[:depth]
        else:
            data = data.get(key) if isinstance(data, dict) else None
    return loc


def _part(loc: Loc) -> type[BaseModel]:
    """The type whose keys are at `loc`."""
    part: type[BaseModel] = Recipe
    for key in loc:
        if isinstance(key, str):
            part = _models(part.model_fields[key].annotation)[0]
    return part


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models(inner)]


def _allowed(loc: Loc) -> str:
    """What the field that holds `loc` may be."""
    words = [depth for depth, key in enumerate(loc) if isinstance(key, str)]
    if not words:
        return "a map with name, about, init and stages"
    field = _part(loc[: words[-1]]).model_fields[str(loc[words[-1]])]
    if get_origin(field.annotation) is Literal:
        return "one of " + ", ".join(get_args(field.annotation))
    return field.description or ""


def _shown(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return "a value that is nested too deeply"
    return text if len(text) <= 60 else text[:57] + "..."
