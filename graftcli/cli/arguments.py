"""Convert the parameters of a command into the keyword arguments of the public function that it calls."""

from collections.abc import Mapping
from typing import Any

import typer

from graftcli.cli.plan import split_names

_NAMES = {"set_": "set", "compile_": "compile", "run_folder": "run"}  # parameters whose name differs from their flag
_COMMAND_ONLY = ("ctx", "as_json", "quiet")


def keywords(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments; names of modules are split at their commas."""
    values = {_NAMES.get(name, name): value for name, value in parameters.items() if name not in _COMMAND_ONLY}
    values |= {name: split_names(values[name]) for name in ("split_teacher", "split_student") if values.get(name)}
    if "set" in values:
        values["set"] = tuple(values["set"] or ())
    return values


def explicit(ctx: typer.Context) -> dict[str, Any]:
    """The keyword arguments of the parameters that a flag or a variable sets."""
    return keywords({name: value for name, value in ctx.params.items() if not _is_default(ctx, name)})


def _is_default(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is None or source.name in ("DEFAULT", "DEFAULT_MAP")
