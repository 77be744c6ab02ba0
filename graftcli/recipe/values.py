"""Types of the values in a recipe, and the settings of augmentation, views and synthetic images.

A field's description states the allowed values; error messages quote it.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    Strict,
    ValidationError,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails

T = TypeVar("T")
MAX_STEPS = 1_000_000_000
_MAX_ITEMS = 1_000  # per list: blocks, stages, targets


def _as_tuple(value: object) -> tuple[object, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _check_length(values: tuple[T, ...]) -> tuple[T, ...]:
    # not pydantic's min_length, which does not count faulty items and would report that the list is too short
    if not values:
        raise ValueError("found []: give at least one item")
    if len(values) > _MAX_ITEMS:
        raise ValueError(f"found {len(values):,} items: give at most {_MAX_ITEMS:,}")
    return values


def ascending(value: tuple[float, ...]) -> tuple[float, ...]:
    """The numbers, unless they are not in ascending order."""
    if list(value) != sorted(value):
        raise ValueError(f"found {list(value)}: give the numbers in ascending order")
    return value


Check = Callable[[object], T]


def check_with_faults(value: object, check: Check[T], faults: Mapping[tuple[int, str], str]) -> T:
    """Return check(value); raise the `faults`, by item index and key, together with every fault that `check` finds."""
    details = [InitErrorDetails(type="value_error", loc=loc, input=value, ctx={"error": faults[loc]}) for loc in faults]
    try:
        checked = check(value)
    except ValidationError as error:
        details += [
            InitErrorDetails(type=each["type"], loc=each["loc"], input=each["input"], ctx=each.get("ctx", {}))
            for each in error.errors()
        ]
        raise ValidationError.from_exception_data(error.title, details) from None
    if details:
        raise ValidationError.from_exception_data("recipe", details)
    return checked


def item_values(value: object, key: str) -> list[object]:
    """The value at `key` of each item of a list that is not validated yet; None if an item has no such key."""
    items = value if isinstance(value, list | tuple) else ()
    return [item.get(key) if isinstance(item, dict) else getattr(item, key, None) for item in items]


class _OneOrMore:
    """The JSON schema of a list for which a single item may be given."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        array = handler(schema)
        return {"anyOf": [array["items"], array]}


NonEmpty = Annotated[tuple[T, ...], Strict(False), AfterValidator(_check_length)]
# A single value is stored as a tuple of one; `nth` repeats the last value.
PerUnit = Annotated[
    tuple[T, ...],
    BeforeValidator(_as_tuple),
    AfterValidator(_check_length),
    PlainSerializer(lambda values: values[0] if len(values) == 1 else list(values)),
    _OneOrMore(),
]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,63}$")]  # names are parts of file names
# The bounds exclude mistyped numbers, numbers that vanish in float32 and sizes that fit in no memory.
Count = Annotated[int, Field(ge=1, le=MAX_STEPS)]
Small = Annotated[int, Field(ge=1, le=65_536)]
Positive = Annotated[float, Field(ge=1e-6, le=1e6)]
Rate = Annotated[float, Field(ge=1e-12, le=100.0)]
WeightDecay = Annotated[float, Field(ge=0, le=100.0)]
Ridge = Annotated[float, Field(ge=1e-18, le=1e6)]
Share = Annotated[float, Field(ge=0, le=1)]
_Aspect = Annotated[float, Field(ge=0.01, le=100)]
_Area = Annotated[float, Field(ge=0.0001, le=1)]
Fraction = Annotated[float, Field(ge=1e-6, le=1 - 1e-9)]
Pair = Annotated[tuple[T, T], Strict(False)]
_Span = Annotated[tuple[T, T], Strict(False), AfterValidator(ascending)]

NAME = "at most 64 lower-case letters, digits and dashes, starting with a letter"
SHARE = "a number from 0 to 1"
POSITIVE = "a number above 0, from 1e-6 to 1e6"
_WHOLE = "a whole number from 1 to 1e9"
SMALL = "a whole number from 1 to 65536"
FRACTION = "between 0 and 1, from 1e-6 to 0.999999999"
RATES = "a number above 0, from 1e-12 to 100, or a list of them, one per block"
COUNTS = "a whole number from 1 to 1e9, or a list of them, one per block"


class RecipeModel(BaseModel):
    """Base of all parts of a recipe: frozen, without unknown keys or type coercion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)


class Crop(RecipeModel):
    """Pads the image and crops it back to its size at a random place."""

    padding: Share = Field(
        default=0.125, description=f"{SHARE}, as a fraction of the image's side (0.125 is 4 of 32 pixels)"
    )


class ResizedCrop(RecipeModel):
    """Crops a random region of the image and resizes it to the image's size."""

    scale: _Span[_Area] = Field(description="two ascending numbers from 0.0001 to 1: the fraction of the image's area")
    ratio: _Span[_Aspect] = Field(
        default=(3 / 4, 4 / 3), description="two ascending numbers from 0.01 to 100: width / height"
    )
    share: Share = Field(default=1.0, description=f"{SHARE}: the fraction of views that are cropped and resized")


class Mix(RecipeModel):
    """Blends a view with another one (mixup)."""

    share: Share = Field(description=f"{SHARE}: the fraction of views that are blended with another view")
    alpha: Positive = Field(default=1.0, description=f"{POSITIVE}: alpha of the Beta distribution of the blend weight")


class Paste(RecipeModel):
    """Pastes a region of another view into a view (CutMix)."""

    share: Share = Field(description=f"{SHARE}: the fraction of views that receive a region of another view")
    alpha: Positive = Field(default=1.0, description=f"{POSITIVE}: alpha of the Beta distribution of the region's area")
    shape: Literal["box", "blobs"] = Field(default="box", description="box or blobs: the shape of the region")


class Colour(RecipeModel):
    """Changes brightness, contrast and saturation at random."""

    strength: Share = Field(description=f"{SHARE}: the largest change of brightness, contrast and saturation")


class Augment(RecipeModel):
    """The augmentations that turn an image into a view, applied in this order.

    `mixup` blends two views; `cutmix` pastes a region of another view, itself blended, so a view shows at most four
    images.
    """

    crop: Crop | None = Field(default=None, description="a map with `padding`, or null")
    flip: bool = Field(default=False, description="true or false")
    resized_crop: ResizedCrop | None = Field(default=None, description="a map with `scale`, or null")
    colour: Colour | None = Field(default=None, description="a map with `strength`, or null")
    mixup: Mix | None = Field(default=None, description="a map with `share` and `alpha`, or null")
    cutmix: Paste | None = Field(default=None, description="a map with `share`, `alpha` and `shape`, or null")


class Synthetic(RecipeModel):
    """Synthetic images, derived from the teacher's BatchNorm statistics when there are few real images."""

    images: Small = Field(description=f"{SMALL}: the number of real and synthetic images together")
    below: Small | None = Field(
        default=None, description=f"{SMALL}: make synthetic images only if there are fewer real ones; null: as `images`"
    )
    steps: Small = Field(default=40, description=f"{SMALL}: the optimisation steps per image")

    def count_for(self, images: int) -> int:
        """The number of synthetic images to make, given the number of real images."""
        return max(0, self.images - images) if self.below is None or images < self.below else 0


class ViewSettings(RecipeModel):
    """The number of views and their augmentation. With `count` or `total`, the teacher's outputs are cached."""

    count: Count | None = Field(default=None, description=f"{_WHOLE}: views per image; null: a new view at each step")
    total: Count | None = Field(
        default=None, description=f"{_WHOLE}: views of all images, ignored if `count` is given; or null"
    )
    augment: Augment = Field(default=Augment(), description="a map of crop, flip, resized_crop, colour, mixup, cutmix")
    synthetic: Synthetic | None = Field(default=None, description="a map with `images`, `below` and `steps`, or null")
    extra_share: Annotated[float, Field(strict=True, gt=0, lt=1)] = Field(
        default=0.5, description="a number above 0 and below 1: the share of views that show --extra-images, if given"
    )

    def max_per_image(self, images: int) -> int | None:
        """The largest number of views per image, from `count` or else `total`; None if unlimited."""
        if self.count is not None or self.total is None:
            return self.count
        return -(-self.total // images)
