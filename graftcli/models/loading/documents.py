"""Validate the description of a network in a document: known fields, known types, bounded values.

check_origin(value, document)     an architecture, from graft.json or the metadata of a safetensors file
check_kwargs(kwargs, document)    the arguments of a timm or torchvision architecture
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar, cast

from pydantic import AfterValidator, BaseModel, Discriminator, Field, Tag, TypeAdapter, ValidationError

from graftcli.errors import CheckpointError, few
from graftcli.models.cuts.positions import Layout
from graftcli.models.origin import Origin, SavedNetwork

T = TypeVar("T")

# arguments that take a file, a URL, or an object other than a number or a name
_FORBIDDEN = {
    *("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict"),
    *("pretrained_filter_fn", "pretrained_model_args", "model_cfg", "cache_dir", "features_only", "feature_cfg"),
    *("weights", "weights_backbone", "progress", "device", "dtype", "scriptable", "exportable", "no_jit"),
}
_MAX_NUMBER = 1_000_000  # upper bound of integers: classes, channels, layers
_MAX_DEPTH, _MAX_LENGTH, _MAX_TEXT = 6, 4096, 300
FIX = "Copy the file again, or name the network yourself and pass the weights as its checkpoint."


def _at_most(length: int) -> AfterValidator:
    """A bound that, unlike `max_length`, admits names of files that are not UTF-8."""

    def check(text: str) -> str:
        if len(text) > length:
            raise ValueError(f"it should have at most {length} characters")
        return text

    return AfterValidator(check)


Name = Annotated[str, _at_most(_MAX_TEXT)]
_Path = Annotated[str, _at_most(4096)]
Count = Annotated[int, Field(strict=True, ge=0, le=_MAX_NUMBER)]
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


_ORIGIN: TypeAdapter[object] = TypeAdapter(_Origin)
_COMMON = TypeAdapter(_Common)
_HYBRID = TypeAdapter(_Hybrid)
_INPUT = TypeAdapter(_Input)
_CLASSES: TypeAdapter[int] = TypeAdapter(Count)
_TIMM = TypeAdapter(_TimmConfig)


def check_document(document: Mapping[str, object], file: Path) -> SavedNetwork:
    """Validate graft.json or the metadata of a safetensors file, and return it."""
    if document["kind"] not in ("student", "hybrid"):
        raise CheckpointError(f"`{file}` is damaged or was changed: `kind` is {_short(document['kind'])}.", FIX)
    roles = {"student"}
    if document["kind"] == "hybrid":
        roles |= set(_validate(_HYBRID, document["hybrid"], file, "hybrid").blocks)
    for role in sorted(roles):
        check_origin(document[role], file, role)
    _validate(_INPUT, document["preprocess"], file, "preprocess")
    _validate(_CLASSES, document["classes"], file, "classes")
    return cast(SavedNetwork, document)  # its fields were validated above


def check_origin(origin: object, document: Path, at: str = "student") -> Origin:
    """Validate the description of a network, and return it: architecture, input and classes."""
    _validate(_ORIGIN, origin, document, at)
    _validate(_COMMON, origin, document, at)
    checked = cast(Origin, origin)  # its fields were validated above
    for part in _parts(checked):
        check_kwargs(part.get("kwargs", {}), document)
    return checked


def _parts(origin: Origin) -> Iterator[Origin]:
    """The origin, then the origins that it is derived from."""
    yield origin
    if origin["kind"] == "derived":
        yield from _parts(origin["base"])


def _validate(schema: TypeAdapter[T], value: object, document: Path, at: str) -> T:
    try:
        return schema.validate_python(value, strict=True)
    except ValidationError as err:
        raise CheckpointError(f"`{document}` is damaged or was changed: {fault(err, at)}.", FIX) from err
    except RecursionError as err:
        raise CheckpointError(f"`{document}` is damaged or was changed: `{at}` is nested too deeply.", FIX) from err


def fault(err: ValidationError, at: str = "") -> str:
    """Format the first validation errors: field, problem, value found."""
    tags = {"library", "code", "derived"}
    errors = []
    for error in err.errors(include_url=False, include_context=False):
        field = ".".join([*([at] if at else []), *(str(step) for step in error["loc"] if step not in tags)])
        value = repr(error["input"])
        text = value if len(value) <= 60 else f"{value[:57]}..."
        errors.append(f"`{field or 'the document'}`: {error['msg'].lower()}, found {text}")
    return few(errors, 3)


def check_timm_config(pretrained: object, kwargs: object, document: Path) -> None:
    """Validate a timm config.json."""
    check_kwargs(kwargs, document)
    try:
        _TIMM.validate_python(pretrained)
    except ValidationError as err:
        raise CheckpointError(f"`{document}` is damaged or was changed: {fault(err, 'pretrained_cfg')}.", FIX) from err


def check_kwargs(kwargs: object, document: Path) -> None:
    """Refuse architecture arguments other than numbers, names and containers of them, or that lead to a file."""
    if not isinstance(kwargs, Mapping) or not all(isinstance(key, str) for key in kwargs):
        raise _not_allowed(document, f"arguments given as {_short(kwargs)} instead of a map of names to values")
    if bad := sorted(_FORBIDDEN & set(kwargs)):
        raise _not_allowed(document, f"the argument{'s' if len(bad) > 1 else ''} {few([f'`{name}`' for name in bad])}")
    for name, value in kwargs.items():
        if (problem := _problem(value)) is not None:
            raise _not_allowed(document, f"the argument `{_short(name)}` {problem}")


def _not_allowed(document: Path, problem: str) -> CheckpointError:
    return CheckpointError(f"`{document}` asks for {problem}, which is not allowed in a file.", FIX)


def _problem(value: object, depth: int = _MAX_DEPTH) -> str | None:
    """What is wrong with an argument, or None."""
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return None if math.isfinite(value) and abs(value) <= _MAX_NUMBER else f"of {_short(value)}"
    if isinstance(value, str):
        allowed = len(value) <= _MAX_TEXT and value.isprintable() and "/" not in value and "\\" not in value
        return None if allowed else f"of {_short(value)}"
    if isinstance(value, Mapping | list | tuple):
        inner = [*value, *value.values()] if isinstance(value, Mapping) else list(value)
        if depth == 0 or len(inner) > _MAX_LENGTH:
            return "of a list that is too long or nested too deeply"
        return next((problem for item in inner if (problem := _problem(item, depth - 1)) is not None), None)
    return f"of the type {type(value).__name__}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
