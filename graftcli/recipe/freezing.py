"""The value of `freeze` in a recipe: which blocks of the student are not trained."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError

from graftcli.recipe.values import PerUnit

MAX_BLOCK = 10_000
FREEZE = "`same` or `same-shape` or `none`, or block numbers from 1, such as `[1]` or `[same, 1]`"

Rule = Literal["same", "same-shape", "none"]


def _one_fault(value: object, check: ValidatorFunctionWrapHandler) -> object:
    """Validate an item; report one fault instead of one for each type that it could have."""
    try:
        return check(value)
    except ValidationError:
        raise PydanticCustomError("freeze", "neither a rule nor a block number") from None


def _check_items(items: tuple[Rule | int, ...]) -> tuple[Rule | int, ...]:
    if repeated := [item for index, item in enumerate(items) if item in items[:index]]:
        raise ValueError(f"found {repeated[0]} again: give each item once")
    if len(rules := [item for item in items if isinstance(item, str)]) > 1:
        raise ValueError(f"found {' and '.join(rules)}: give one of them")
    if "none" in items and len(items) > 1:
        raise ValueError("found none and block numbers: give one or the other")
    return items


Freeze = Annotated[
    PerUnit[Annotated[Rule | Annotated[int, Field(ge=1, le=MAX_BLOCK)], WrapValidator(_one_fault)]],
    AfterValidator(_check_items),
]


def named_blocks(freeze: tuple[Rule | int, ...]) -> list[int]:
    """Return the blocks that are frozen by their numbers."""
    return [item for item in freeze if isinstance(item, int)]
