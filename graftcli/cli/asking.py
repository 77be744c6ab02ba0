"""The flags that `distill` and `partial` share -> what a run is asked for."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from graftcli.cli.plan import names

if TYPE_CHECKING:
    from graftcli.models.cuts.pairing import CutOptions
    from graftcli.runs.config import RunConfig

# the parameters of the commands that stand for fields of another name
_FIELDS = {"set_": "overrides", "compile_": "compile"} | dict.fromkeys(
    ("blocks_count", "split_teacher", "split_student"), "choice"
)


def asked_by(flags: Mapping[str, Any]) -> "RunConfig":
    """What the parameters of a command, by their names, ask for."""
    from dataclasses import fields

    from graftcli.runs.config import ModelPair, RunConfig, TrainOptions
    from graftcli.runs.scoring import PreprocessOptions

    values = {**flags, "choice": _choice(flags), "overrides": tuple(flags["set_"] or ()), "compile": flags["compile_"]}
    values["teacher"], values["student"] = (flags[role] or "" for role in ("teacher", "student"))
    networks, look, how = (
        kind(**{field.name: values[field.name] for field in fields(kind) if field.name in values})
        for kind in (ModelPair, PreprocessOptions, TrainOptions)
    )
    images, val_images = (str(flags[name]) if flags[name] is not None else None for name in ("images", "val_images"))
    return RunConfig(networks, images or "", val_images, look, how)  # type: ignore[arg-type]


def given(ctx: typer.Context) -> set[str]:
    """The fields that a user has spoken of, by a flag or by a variable."""
    spoken = (name for name in ctx.params if not _is_default(ctx, name))
    return {_FIELDS.get(name, name) for name in spoken}


def _is_default(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is None or source.name in ("DEFAULT", "DEFAULT_MAP")


def _choice(flags: Mapping[str, Any]) -> "CutOptions":
    from graftcli.models.cuts.pairing import CutOptions

    by_hand = [
        None if (found := names(flags[side])) is None else tuple(found) for side in ("split_teacher", "split_student")
    ]
    return CutOptions(flags["blocks_count"], *by_hand)
