"""The fields of a network's description in a document: their types and bounds."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Discriminator, Field, Tag, TypeAdapter

from graftcli.models.cuts.positions import Layout

MAX_NUMBER = 1_000_000  # upper bound of integers: classes, channels, layers
MAX_TEXT = 300  # characters of a name


def _at_most(length: int) -> AfterValidator:
    """A bound that, unlike `max_length`, admits names of files that are not UTF-8."""

    def check(text: str) -> str:
        if len(text) > length:
            raise ValueError(f"it should have at most {length} characters")
        return text

    return AfterValidator(check)


Name = Annotated[str, _at_most(MAX_TEXT)]
_Path = Annotated[str, _at_most(4096)]
Count = Annotated[int, Field(strict=True, ge=0, le=MAX_NUMBER)]
Side = Annotated[int, Field(strict=True, ge=1, le=8192)]
Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]
Positive = Annotated[float, Field(allow_inf_nan=False, gt=0, le=1e6)]
_Indices = Annotated[str, Field(max_length=1_000_000, pattern=r"^(\d{1,7}(-\d{1,7})?(,\d{1,7}(-\d{1,7})?)*)?$")]
Pair = Annotated[list[Count] | Count, Field()]


class _Preprocess(BaseModel):
    mean: list[Number] = Field(min_length=1, max_length=16)
    std: list[Positive] = Field(min_length=1, max_length=16)
    crop_pct: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
    interpolation: Name
    squash: bool = False


class _Input(_Preprocess):
    size: Annotated[list[Side], Field(min_length=2, max_length=2)]


class _TimmConfig(BaseModel):
    """The fields of `pretrained_cfg` in a timm config.json that graftcli uses."""

    input_size: Annotated[tuple[Side, ...], Field(min_length=3, max_length=3)] = (3, 224, 224)
    num_classes: Count = 1000
    mean: Annotated[tuple[Number, ...], Field(min_length=1, max_length=16)] = (0.5,)
    std: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=16)] = (0.5,)
    crop_pct: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] = 1.0
    crop_mode: Name = "center"
    interpolation: Name = "bicubic"
    fixed_input_size: bool = False


class _Library(BaseModel):
    kind: Literal["timm", "torchvision"]
    name: Name
    kwargs: dict[Name, object]


class _Code(BaseModel):
    kind: Literal["code"]
    where: _Path
    call: _Path
    kwargs: dict[Name, object]
    sha256: Name | None


class _InMemory(BaseModel):
    kind: Literal["in-memory"]
    key: Name


class _Selection(BaseModel):
    layer: _Path
    teacher_layer: _Path
    outputs: _Indices
    inputs: _Indices
    exact: bool


class _Convolution(BaseModel, extra="forbid"):
    in_channels: Annotated[Count, Field(ge=1)]
    out_channels: Annotated[Count, Field(ge=1)]
    kernel_size: Pair
    stride: Pair
    padding: Pair | Literal["same", "valid"]
    dilation: Pair
    groups: Annotated[Count, Field(ge=1)]
    padding_mode: Literal["zeros", "reflect", "replicate", "circular"]
    bias: bool


class _Derived(BaseModel):
    kind: Literal["derived"]
    spec: _Path
    base: "_Origin"
    kept: list[_Selection]
    whole: list[_Path]
    replaced: dict[_Path, list[_Convolution]]


def _kind(value: object) -> str:
    kind = value.get("kind") if isinstance(value, Mapping) else getattr(value, "kind", None)
    return {"timm": "library", "torchvision": "library"}.get(str(kind), str(kind))


_Origin = Annotated[
    Annotated[_Library, Tag("library")]
    | Annotated[_Code, Tag("code")]
    | Annotated[_InMemory, Tag("in-memory")]
    | Annotated[_Derived, Tag("derived")],
    Discriminator(_kind),
]
_Derived.model_rebuild()


class _Common(BaseModel):
    """The fields of every network besides its architecture."""

    name: Name
    input_size: Annotated[list[Side], Field(min_length=3, max_length=3)]
    num_classes: Count
    preprocess: _Preprocess


class _Cut(BaseModel):
    name: _Path
    which: Count
    shape: list[Side | Literal[0]]
    layout: Name


class _Joint(BaseModel, extra="forbid"):
    cut: Count
    name: Literal["to_student", "to_teacher", "both"]
    source: Layout
    target: Layout
    size: Annotated[list[Side], Field(min_length=2, max_length=2)]
    shape: Annotated[list[Count], Field(min_length=2, max_length=2)] | None


class _Hybrid(BaseModel):
    input_size: Annotated[list[Side], Field(min_length=3, max_length=3)]
    blocks: Annotated[list[Literal["teacher", "student"]], Field(min_length=1, max_length=1000)]
    cuts: dict[Literal["teacher", "student"], list[_Cut]]
    seams: list[_Joint]
    reshaped: dict[_Path, list[Count]]


ORIGIN: TypeAdapter[object] = TypeAdapter(_Origin)
COMMON = TypeAdapter(_Common)
HYBRID = TypeAdapter(_Hybrid)
INPUT = TypeAdapter(_Input)
CLASSES: TypeAdapter[int] = TypeAdapter(Count)
TIMM = TypeAdapter(_TimmConfig)
