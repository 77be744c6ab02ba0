"""Validate the description of a network in a document: known fields, known types, bounded values.

check_origin(value, document)     an architecture, from graft.json or the metadata of a safetensors file
check_kwargs(kwargs, document)    the arguments of a timm or torchvision architecture
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from graftcli.errors import CheckpointError, few
from graftcli.models.loading.document_schemas import CLASSES, COMMON, HYBRID, INPUT, MAX_NUMBER, MAX_TEXT, ORIGIN, TIMM
from graftcli.models.origin import Origin, SavedNetwork

T = TypeVar("T")

# arguments that take a file, a URL, or an object other than a number or a name
_FORBIDDEN = {
    *("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict"),
    *("pretrained_filter_fn", "pretrained_model_args", "model_cfg", "cache_dir", "features_only", "feature_cfg"),
    *("weights", "weights_backbone", "progress", "device", "dtype", "scriptable", "exportable", "no_jit"),
}
_MAX_DEPTH, _MAX_LENGTH = 6, 4096  # of lists and maps
FIX = "Copy the file again, or name the network yourself and pass the weights as its checkpoint."


def check_document(document: Mapping[str, object], file: Path) -> SavedNetwork:
    """Validate graft.json or the metadata of a safetensors file, and return it."""
    if document["kind"] not in ("student", "hybrid"):
        raise CheckpointError(f"`{file}` is damaged or was changed: `kind` is {_short(document['kind'])}.", FIX)
    roles = {"student"}
    if document["kind"] == "hybrid":
        roles |= set(_validate(HYBRID, document["hybrid"], file, "hybrid").blocks)
    for role in sorted(roles):
        check_origin(document[role], file, role)
    _validate(INPUT, document["preprocess"], file, "preprocess")
    _validate(CLASSES, document["classes"], file, "classes")
    return cast(SavedNetwork, document)  # its fields were validated above


def check_origin(origin: object, document: Path, at: str = "student") -> Origin:
    """Validate the description of a network, and return it: architecture, input and classes."""
    _validate(ORIGIN, origin, document, at)
    _validate(COMMON, origin, document, at)
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
        TIMM.validate_python(pretrained)
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
    return CheckpointError(f"`{document}` contains {problem}, which is not allowed in a file.", FIX)


def _problem(value: object, depth: int = _MAX_DEPTH) -> str | None:
    """What is wrong with an argument, or None."""
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return None if math.isfinite(value) and abs(value) <= MAX_NUMBER else f"of {_short(value)}"
    if isinstance(value, str):
        allowed = len(value) <= MAX_TEXT and value.isprintable() and "/" not in value and "\\" not in value
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
