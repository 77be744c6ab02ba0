"""Files of a run's folder that can be made again: read with their types and bounds, ignored with a warning otherwise.

A hand-edited or damaged file never ends a command, and never shows a number that nothing measured.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from graftcli.models.loading.plain_file import read_regular

T = TypeVar("T")
Warn = Callable[[str], None]

_WIDTH = 60  # characters of a value that a warning shows

Whole = Annotated[int, Field(ge=0, le=10**18)]
Amount = Annotated[float, Field(ge=0, le=1e18, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Loss = Annotated[float, Field(ge=-1e38, le=1e38, allow_inf_nan=False)]
Text = Annotated[str, Field(max_length=100_000)]


def silent(_: str) -> None:
    """A `Warn` for those who want no warnings."""


def load(path: Path, schema: TypeAdapter[T], warn: Warn = silent) -> T | None:
    """The document in the file; None where there is no file, and with a warning where it is another document.

    Parameters:
        path: a JSON file.
        schema: what it holds.
        warn: is called with one sentence about a file that is there and cannot be used.
    """
    try:
        return schema.validate_json(read_regular(path), strict=True)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as fault:
        warn(f"`{path}` is ignored: it cannot be read: {fault.strerror or fault}")
    except ValidationError as fault:
        warn(f"`{path}` is ignored, because it is damaged or was changed: {told(fault)}")
    return None


def told(fault: ValidationError) -> str:
    """The first fault of a document: its field, what is expected, what was found, and how many more there are."""
    first, *more = fault.errors(include_url=False, include_context=False)
    found = _found(first)
    return f"{found}, and {len(more)} more fault{'s' * (len(more) > 1)}" if more else found


def _found(fault: ErrorDetails) -> str:
    place = ".".join(map(str, fault["loc"]))
    said = fault["msg"][:1].lower() + fault["msg"][1:]
    if fault["type"] in ("json_invalid", "missing"):
        return f"`{place}` is missing" if place else said
    given = repr(fault["input"])
    return f"`{place or 'the document'}`: {said}, found {given if len(given) <= _WIDTH else f'{given[:_WIDTH]}…'}"
