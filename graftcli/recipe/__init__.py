"""What a recipe is: a list of stages and the choices around them; every method of the field is one, on one engine."""

import re
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field
from pydantic import field_validator as rule

from graftcli.errors import UsageError
from graftcli.recipe.stage import Stage, Target
from graftcli.recipe.values import MOST_STEPS, NAME, Check, Many, Name, RecipeModel, T, ViewSettings, of_items, together

__all__ = ["Adapters", "Recipe", "Stage", "Target", "check_units", "nth", "scaled"]


class Adapters(RecipeModel):
    """Where a seam has adapters: where the channels differ (`auto`) or everywhere. And what they are at first."""

    where: Literal["auto", "always"] = "auto"
    start: Literal["identity", "least-squares", "random"] = "identity"


class Recipe(RecipeModel):
    """A list of stages and the choices around them.

    `init` is where the student's first weights come from: nowhere, the teacher, its own name, or a file. With
    `least-squares` it is the teacher, and then each dense layer of a student that was just made from it is solved for,
    if any of them has lost something.

    `freeze` says which blocks are kept out of training. `same`: those that have the teacher's weights, or are about to
    inherit all of them. `same-shape`: those of the teacher's architecture are given its weights, wherever the others
    start. `none`: every block is trained.
    """

    name: Name = Field(description=NAME)
    about: str = Field(min_length=1, max_length=1000, description="1 to 1000 characters: what the recipe is for")
    init: Literal["random", "inherit", "least-squares", "pretrained", "checkpoint"]
    adapters: Adapters = Field(default=Adapters(), description="a map with `where` and `start`")
    freeze: Literal["same", "same-shape", "none"] = "same"
    views: ViewSettings = Field(
        default=ViewSettings(), description="a map with `count` or `total`, `augment` and `synthetic`"
    )
    stages: Many[Stage] = Field(description="a list with at least one stage, a map each")

    @rule("stages", mode="wrap")
    @classmethod
    def _names_differ(cls, value: Any, check: Check[tuple[Stage, ...]]) -> tuple[Stage, ...]:
        names = of_items(value, "name")
        again = [index for index, name in enumerate(names) if name is not None and name in names[:index]]
        said = {(index, "name"): f"found {names[index]} again: each stage has its own" for index in again}
        for index, name in enumerate(names):
            if taken := [other for other in names if _is_of(name, other)]:
                said[index, "name"] = f"found {name}: units of {taken[0]} are called so, by their blocks"
        return together(value, check, said)


def _is_of(name: object, stage: object) -> bool:
    """Whether the name is the stage's with numbers behind it."""
    return re.fullmatch(rf"{re.escape(str(stage))}(-[0-9]+)+", str(name)) is not None


def nth(values: Sequence[T], unit: int) -> T:
    """The value for a unit, counted from 0; the last value is repeated."""
    return values[min(unit, len(values) - 1)]


def check_units(recipe: Recipe, blocks: int) -> None:
    """Every list of the recipe has at most one value a unit of a student with so many blocks."""
    faults = [
        f"  stages.{stage.name}.{key}: {len(values)} values for {len(units)} units to train"
        for stage in recipe.stages
        for units in [stage.units(blocks)]
        for key in ("steps", "epochs", "lr", "adapter_lr")
        if len(values := getattr(stage, key) or ()) > max(1, len(units))
    ]
    if faults:
        found = "\n".join([f"recipe {recipe.name} has longer lists than {blocks} blocks can use.", *faults])
        raise UsageError(found, "Give one value, or at most one a block (one less where k grows from 2).")


def scaled(recipe: Recipe, share: float) -> Recipe:
    """The recipe with `share` of the steps and epochs of every stage, at least one of each."""

    def shorter(counts: tuple[int, ...] | None) -> tuple[int, ...] | None:
        return counts and tuple(max(1, round(count * share)) for count in counts)

    stages = tuple(
        stage.model_copy(update={"steps": shorter(stage.steps), "epochs": shorter(stage.epochs)})
        for stage in recipe.stages
    )
    for stage in stages:
        if (most := max(*(stage.steps or ()), *(stage.epochs or ()), 0, 0)) > MOST_STEPS:
            found = f"--steps-scale {share:g} gives the stage {stage.name} {most:,} steps or epochs."
            raise UsageError(found, f"Give a smaller scale: a stage has at most {MOST_STEPS:,}.")
    return recipe.model_copy(update={"stages": stages})
