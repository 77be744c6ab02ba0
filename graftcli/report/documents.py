"""Read the files of a run's folder that can be regenerated, checked against a schema.

A damaged or edited file is ignored with a warning; it never ends a command.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from graftcli.models.loading.plain_file import read_regular

T = TypeVar("T")
Warn = Callable[[str], None]

_MAX_VALUE = 60  # characters of a value that a warning quotes

Whole = Annotated[int, Field(ge=0, le=10**18)]
Amount = Annotated[float, Field(ge=0, le=1e18, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Loss = Annotated[float, Field(ge=-1e38, le=1e38, allow_inf_nan=False)]
Text = Annotated[str, Field(max_length=100_000)]


def silent(_: str) -> None:
    """Discard a warning."""


def load(path: Path, schema: TypeAdapter[T], warn: Warn = silent) -> T | None:
    """The document in a JSON file, or None if the file is absent; warns and returns None if it does not fit the schema.

    Parameters:
        path: a JSON file.
        schema: the type of the document.
        warn: called with one sentence about a file that cannot be used.
    """
    try:
        return schema.validate_json(read_regular(path), strict=True)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as fault:
        warn(f"`{path}` is ignored: it cannot be read ({fault.strerror or fault})")
    except ValidationError as fault:
        warn(f"`{path}` is ignored: it is damaged or was edited: {describe(fault)}")
    return None


def describe(fault: ValidationError) -> str:
    """The first fault of a document (field, expected and found value) and the number of other faults."""
    first, *more = fault.errors(include_url=False, include_context=False)
    text = _describe_first(first)
    return f"{text}, and {len(more)} more fault{'s' * (len(more) > 1)}" if more else text


def _describe_first(fault: ErrorDetails) -> str:
    place = ".".join(map(str, fault["loc"]))
    message = fault["msg"][:1].lower() + fault["msg"][1:]
    if fault["type"] in ("json_invalid", "missing"):
        return f"`{place}` is missing" if place else message
    value = repr(fault["input"])
    shortened = value if len(value) <= _MAX_VALUE else f"{value[:_MAX_VALUE]}…"
    return f"`{place or 'the document'}`: {message}, found {shortened}"
