"""The values that a recipe is made of, and how an image becomes a view.

The description of a field says what it may hold, and is what the reader of a faulty recipe is told.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    Strict,
    ValidationError,
)
from pydantic_core import InitErrorDetails

T = TypeVar("T")
MOST_STEPS = 1_000_000_000
_MOST_ITEMS = 1_000  # of a list: blocks, stages, targets


def _listed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _some(values: tuple[T, ...]) -> tuple[T, ...]:
    # not by a length that pydantic checks: it counts faulty items out, and tells of a list that is none too short
    if not values:
        raise ValueError("found []: at least one is needed")
    if len(values) > _MOST_ITEMS:
        raise ValueError(f"found {len(values):,} items: at most {_MOST_ITEMS:,} are read")
    return values


def rising(value: tuple[float, ...]) -> tuple[float, ...]:
    if list(value) != sorted(value):
        raise ValueError(f"found {list(value)}: the smaller number comes first")
    return value


Check = Callable[[Any], T]


def together(value: Any, check: Check[T], said: Mapping[tuple[int, str], str]) -> T:
    """check(value), where what is `said` of the items' keys is reported beside all that `check` finds."""
    own = [InitErrorDetails(type="value_error", loc=loc, input=value, ctx={"error": said[loc]}) for loc in said]
    try:
        checked = check(value)
    except ValidationError as error:
        found = [
            InitErrorDetails(type=each["type"], loc=each["loc"], input=each["input"], ctx=each.get("ctx", {}))
            for each in error.errors()
        ]
        raise ValidationError.from_exception_data(error.title, own + found) from None
    if own:
        raise ValidationError.from_exception_data("recipe", own)
    return checked


def of_items(value: Any, key: str) -> list[Any]:
    """What each item of a list has at `key`, before anybody knows whether it is a list, or has items, with keys."""
    items = value if isinstance(value, list | tuple) else ()
    return [item.get(key) if isinstance(item, dict) else getattr(item, key, None) for item in items]


Many = Annotated[tuple[T, ...], Strict(False), AfterValidator(_some)]
# One value is a list of one: whoever reads it has no second case. `nth` repeats the last.
PerUnit = Annotated[
    tuple[T, ...],
    BeforeValidator(_listed),
    AfterValidator(_some),
    PlainSerializer(lambda values: values[0] if len(values) == 1 else list(values)),
]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,63}$")]  # it becomes a part of the names of files
# bounds: what is beyond them is a mistyped number, or is nothing in float32, or fits no memory
Count = Annotated[int, Field(ge=1, le=MOST_STEPS)]
Few = Annotated[int, Field(ge=1, le=65_536)]
Positive = Annotated[float, Field(ge=1e-6, le=1e6)]
Rate = Annotated[float, Field(ge=1e-12, le=100.0)]
Decay = Annotated[float, Field(ge=0, le=100.0)]
Ridge = Annotated[float, Field(ge=1e-18, le=1e6)]
Share = Annotated[float, Field(ge=0, le=1)]
Aspect = Annotated[float, Field(ge=0.01, le=100)]
Area = Annotated[float, Field(ge=0.0001, le=1)]
Inside = Annotated[float, Field(ge=1e-6, le=1 - 1e-9)]
Pair = Annotated[tuple[T, T], Strict(False)]
Span = Annotated[tuple[T, T], Strict(False), AfterValidator(rising)]

NAME = "lower-case letters, digits and dashes, a letter first, 64 characters at most"
SHARE = "a number from 0 to 1"
POSITIVE = "a number above 0, from 1e-6 to 1e6"
WHOLE = "a whole number from 1 to 1e9"
FEW = "a whole number from 1 to 65536"
INSIDE = "between 0 and 1, from 1e-6 to 0.999999999"
RATES = "a number above 0, from 1e-12 to 100, or a list of them, one a block"
COUNTS = "a whole number from 1 to 1e9, or a list of them, one a block"


class RecipeModel(BaseModel):
    """A part of a recipe: never changed, no unknown keys, no conversion of one type into another."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)


class Crop(RecipeModel):
    padding: Share = Field(default=0.125, description=f"{SHARE}, of the image's side (4 of 32 pixels are 0.125)")


class ResizedCrop(RecipeModel):
    scale: Span[Area] = Field(description="two numbers from 0.0001 to 1, rising: the share of the image's area")
    ratio: Span[Aspect] = Field(
        default=(3 / 4, 4 / 3), description="two numbers from 0.01 to 100, rising: width over height"
    )
    share: Share = Field(default=1.0, description=f"{SHARE}, of the views that are zoomed")


class Mix(RecipeModel):
    share: Share = Field(description=f"{SHARE}, of the views that are blended with another")
    alpha: Positive = Field(default=1.0, description=f"{POSITIVE}: of the Beta distribution of the weight")


class Paste(RecipeModel):
    share: Share = Field(description=f"{SHARE}, of the views on which a part of another is pasted")
    alpha: Positive = Field(default=1.0, description=f"{POSITIVE}: of the Beta distribution of that part's area")
    shape: Literal["box", "blobs"] = Field(default="box", description="box or blobs: the form of that part")


class Colour(RecipeModel):
    strength: Share = Field(description=f"{SHARE}: how far brightness, contrast and saturation move")


class Augment(RecipeModel):
    """How an image becomes a view, in this order; what is absent is not done.

    `mixup` blends a view with another one, `cutmix` pastes a part of another one, blended itself, over it: up to four
    images in a view.
    """

    crop: Crop | None = Field(default=None, description="a map with `padding`, or null")
    flip: bool = Field(default=False, description="true or false")
    resized_crop: ResizedCrop | None = Field(default=None, description="a map with `scale`, or null")
    colour: Colour | None = Field(default=None, description="a map with `strength`, or null")
    mixup: Mix | None = Field(default=None, description="a map with `share` and `alpha`, or null")
    cutmix: Paste | None = Field(default=None, description="a map with `share`, `alpha` and `shape`, or null")


class Synthetic(RecipeModel):
    """Images that are made where there are few, from the statistics in a teacher's BatchNorms."""

    images: Few = Field(description=f"{FEW}: the images that there are with the synthetic ones")
    below: Few | None = Field(default=None, description=f"{FEW}: where fewer are trained on; null: fewer than `images`")
    steps: Few = Field(default=40, description=f"{FEW}: along the teacher's gradient")

    def lacking(self, images: int) -> int:
        """How many are to be made beside so many that there are."""
        return max(0, self.images - images) if self.below is None or images < self.below else 0


class ViewSettings(RecipeModel):
    """The looks at the images. With a `count` for each image, or a `total` that images share, they are remembered."""

    count: Count | None = Field(default=None, description=f"{WHOLE}, or null: a fresh view at each step")
    total: Count | None = Field(default=None, description=f"{WHOLE}, or null; `count` goes before it")
    augment: Augment = Field(default=Augment(), description="a map of crop, flip, resized_crop, colour, mixup, cutmix")
    synthetic: Synthetic | None = Field(default=None, description="a map with `images`, `below` and `steps`, or null")

    def most(self, images: int) -> int | None:
        """How many looks an image has at most, by its own count before the total; None: as many as steps can see."""
        if self.count is not None or self.total is None:
            return self.count
        return -(-self.total // images)
