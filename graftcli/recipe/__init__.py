"""The schema of a recipe: a distillation method as a list of stages and their common settings."""

import re
from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from pydantic import field_validator as rule

from graftcli.errors import UsageError
from graftcli.recipe.freezing import FREEZE, Freeze
from graftcli.recipe.stage import Stage
from graftcli.recipe.target import Target
from graftcli.recipe.values import (
    MAX_STEPS,
    NAME,
    Check,
    Name,
    NonEmpty,
    RecipeModel,
    T,
    ViewSettings,
    check_with_faults,
    item_values,
)

__all__ = ["Adapters", "Recipe", "Stage", "Target", "check_units", "nth", "scaled"]


class Adapters(RecipeModel):
    """Which cuts have adapters, and how adapters are initialised.

    `auto`: where the channels differ, and where a student block ends with a ReLU and the teacher's has negative values.
    """

    where: Literal["auto", "always"] = "auto"
    start: Literal["identity", "least-squares", "random"] = "identity"


class Recipe(RecipeModel):
    """A list of stages and their common settings.

    Parameters:
        init: the source of the student's initial weights: none (`random`), the teacher (`inherit`), the architecture's
            pretrained weights, or a checkpoint. `least-squares` inherits; if the student is derived from the teacher
            and any layer lost channels, each dense layer is then solved for by least squares.
        freeze: the blocks that are not trained. `same`: blocks that have or inherit all of the teacher's weights.
            `same-shape`: blocks of the teacher's architecture, which take its weights whatever `init` is. `none`: no
            block. A number: this block with its adapters; if it does not equal the teacher's, it keeps its initial
            weights and is part of the student that is scored.
    """

    name: Name = Field(description=NAME)
    about: str = Field(min_length=1, max_length=1000, description="1 to 1000 characters that describe the recipe")
    init: Literal["random", "inherit", "least-squares", "pretrained", "checkpoint"]
    adapters: Adapters = Field(default=Adapters(), description="a map with `where` and `start`")
    freeze: Freeze = Field(default=("same",), description=FREEZE)
    views: ViewSettings = Field(
        default=ViewSettings(), description="a map with `count` or `total`, `augment` and `synthetic`"
    )
    stages: NonEmpty[Stage] = Field(description="a list of at least one stage, each a map")

    @rule("stages", mode="wrap")
    @classmethod
    def _names_differ(cls, value: object, check: Check[tuple[Stage, ...]]) -> tuple[Stage, ...]:
        names = item_values(value, "name")
        repeated = [index for index, name in enumerate(names) if name is not None and name in names[:index]]
        faults = {(index, "name"): f"found {names[index]} again: give each stage its own name" for index in repeated}
        for index, name in enumerate(names):
            if stages := [stage for stage in names if _is_unit_name(name, stage)]:
                faults[index, "name"] = f"found {name}, the name of a unit of the stage {stages[0]}: choose another"
        return check_with_faults(value, check, faults)


def _is_unit_name(name: object, stage: object) -> bool:
    """Whether `name` is the stage's name followed by block numbers."""
    return re.fullmatch(rf"{re.escape(str(stage))}(-[0-9]+)+", str(name)) is not None


def nth(values: Sequence[T], unit: int) -> T:
    """The value for a unit, counted from 0; all later units get the last value."""
    return values[min(unit, len(values) - 1)]


def check_units(recipe: Recipe, blocks: int) -> None:
    """Raise if a list in the recipe has more values than units to train in a student of `blocks` blocks."""
    faults = [
        f"  stages.{stage.name}.{key}: {len(values)} values for {len(units)} units to train"
        for stage in recipe.stages
        for units in [stage.units(blocks)]
        for key in ("steps", "epochs", "lr", "adapter_lr")
        if len(values := getattr(stage, key) or ()) > max(1, len(units))
    ]
    if faults:
        found = "\n".join([f"recipe {recipe.name} lists more values than {blocks} blocks can use.", *faults])
        raise UsageError(found, "Give one value, or at most one per block (one fewer for `train: growing`).")


def scaled(recipe: Recipe, scale: float) -> Recipe:
    """The recipe with the steps and epochs of every stage multiplied by `scale`, at least one of each."""

    def scaled_counts(counts: tuple[int, ...] | None) -> tuple[int, ...] | None:
        return counts and tuple(max(1, round(count * scale)) for count in counts)

    stages = tuple(
        stage.model_copy(update={"steps": scaled_counts(stage.steps), "epochs": scaled_counts(stage.epochs)})
        for stage in recipe.stages
    )
    for stage in stages:
        if (longest := max(*(stage.steps or ()), *(stage.epochs or ()), 0, 0)) > MAX_STEPS:
            found = f"--steps-scale {scale:g} gives the stage {stage.name} {longest:,} steps or epochs."
            raise UsageError(found, f"Give a smaller scale: a stage has at most {MAX_STEPS:,}.")
    return recipe.model_copy(update={"stages": stages})
