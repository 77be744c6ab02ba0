"""The reference of the recipe language, made from its types: JSON Schema for editors, Markdown for readers."""

import json
import re
from collections.abc import Iterator
from inspect import cleandoc

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from graftcli.recipe import Adapters, Recipe, Stage, Target
from graftcli.recipe.values import Augment, Colour, Crop, Mix, Paste, ResizedCrop, Synthetic, ViewSettings

_SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("A recipe", Recipe),
    ("adapters", Adapters),
    ("views", ViewSettings),
    ("views.augment, stages.augment", Augment),
    ("crop", Crop),
    ("resized_crop", ResizedCrop),
    ("colour", Colour),
    ("mixup", Mix),
    ("cutmix", Paste),
    ("views.synthetic", Synthetic),
    ("stages", Stage),
    ("stages.targets", Target),
)
_HEAD = """# The fields of a recipe

A recipe is a YAML file: a list of stages, and the settings around them. `graftcli distill --recipe my.yaml` runs it,
and `--set stages.graft.lr=1e-3` changes one field. `graftcli recipes show graft` prints a built-in recipe,
`graftcli recipes validate my.yaml` reports all faults of a file at once, and `graftcli recipes schema` prints a JSON
Schema for editors. This page is made by `graftcli recipes schema --markdown`.
"""


def json_schema() -> str:
    """The JSON Schema of a recipe."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}
    return json.dumps(schema, indent=2)


def markdown() -> str:
    """A table of fields for each part of a recipe."""
    return "\n".join([_HEAD, *(_section(title, model) for title, model in _SECTIONS)])


def _section(title: str, model: type[BaseModel]) -> str:
    about, parameters = _described(model)
    rows = [_row(name, field, parameters.get(name, "")) for name, field in model.model_fields.items()]
    head = ["| field | value | default | meaning |", "| --- | --- | --- | --- |"]
    return "\n".join([f"## {title}", "", *([about, ""] if about else []), *head, *rows, ""])


def _row(name: str, field: FieldInfo, meaning: str) -> str:
    value = field.description or " or ".join(f"`{one}`" for one in _choices(field))
    default = "required" if field.is_required() else _default(field.default)
    return f"| `{name}` | {value} | {default} | {meaning} |".replace("  ", " ")


def _choices(field: FieldInfo) -> Iterator[str]:
    yield from getattr(field.annotation, "__args__", ())


def _default(value: object) -> str:
    if isinstance(value, BaseModel):
        return "see below"
    if isinstance(value, tuple) and len(value) == 1:  # a list for which a single item may be given
        value = value[0]
    return f"`{json.dumps(value)}`"


def _described(model: type[BaseModel]) -> tuple[str, dict[str, str]]:
    """The description of a model, and of each of its parameters, from its docstring."""
    if not (model.__doc__ or "").strip():
        return "", {}
    about, _, parameters = cleandoc(model.__doc__ or "").partition("Parameters:\n")
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", parameters, re.MULTILINE)
    return " ".join(about.split()), {name: " ".join(text.split()) for name, text in found}
