"""Validate command-line values: ranges of numbers, encoding and length of names."""

import difflib
import math
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from graftcli.errors import GraftError, ImagesError, UsageError

MAX_IMAGE_SIZE = 16_384  # height or width
_MAX_NAME = 200  # bytes of a file name; the system allows 255, from which suffixes are subtracted
_MAX_PATH = 3_000  # bytes of a path; the system allows 4,096
_MAX_SHOWN = 60  # characters of a value in an error message
# values outside these ranges are typos, or exceed the capacity of any machine
_MAXIMUM: Mapping[str, int | float] = {
    "--num-classes": 10_000_000,
    "--in-chans": 4_096,
    "--blocks-count": 1_000,
    "--batch": 65_536,
    "--jobs": 1_024,
    "--threads": 4_096,
    "--crop-pct": 10.0,
    "--cache-gb": 1_000_000.0,
    "--images-gb": 1_000_000.0,
    "--steps-scale": 10_000.0,
    "--seconds": 31_536_000.0,  # a year
    "--steps": 1_000_000_000,
    "--draws": 10_000,
    "--shots": 100_000_000,
    "--mean": 1_000.0,
    "--std": 1_000.0,
}
_MINIMUM: Mapping[str, int | float] = {"--mean": -1_000.0, "--std": 1e-6}
_PREFIX = "GRAFTCLI_"
_IMAGES = ("--images", "--val-images", "--test", "--calib")
_OUTPUTS = ("--out",)


def bounded(flag: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Add a range check to the settings of an option; its own min and max override the limits of its flag."""
    rest = dict(settings)
    minimum, maximum = rest.pop("min", _MINIMUM.get(flag)), rest.pop("max", _MAXIMUM.get(flag))
    if minimum is None and maximum is None:
        return rest
    low, high = -math.inf if minimum is None else minimum, math.inf if maximum is None else maximum

    def check_range(value: Any) -> Any:
        for number in _each(value):
            if number is not None and not low <= number <= high:  # also true for NaN
                raise UsageError(f"{flag} is {_number(number)}.", f"Give {_range(low, high)}.")
        return value

    return {**rest, "callback": check_range}


def _range(minimum: float, maximum: float) -> str:
    """Describe the range from `minimum` to `maximum`."""
    low = f" from {_number(minimum)}" if math.isfinite(minimum) else ""
    high = f"{' ' if low else ' up '}to {_number(maximum)}" if math.isfinite(maximum) else ""
    return f"a number{low}{high}"


def _number(value: float) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if 1 <= abs(value) < 1e15 and value.is_integer() else f"{value:g}"
    return f"{value:,}" if abs(value) < 10**20 else f"{str(value)[:8]}… ({len(str(value))} digits)"


def check_strings(values: Mapping[str, Any]) -> None:
    """Raise if a string is not UTF-8 or an output path is too long; `values` maps flags to their values."""
    for flag, value in values.items():
        for item in _each(value):
            if isinstance(item, str | os.PathLike):
                _check_text(flag, os.fspath(item))


def _each(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list | tuple) else (value,)


def _check_text(flag: str, text: str) -> None:
    kind: type[GraftError] = ImagesError if flag in _IMAGES or flag == "DIR" else UsageError
    if re.search(r"[\ud800-\udfff]", text):
        raise kind(
            f"{flag} {_shorten(text)} is not UTF-8: its bytes are {os.fsencode(text)[:_MAX_SHOWN]!r}.",
            "Rename the file or folder so that its name is UTF-8, for example with `convmv -t utf8`.",
        )
    if flag in _OUTPUTS:
        _check_length(flag, text)


def _check_length(flag: str, text: str) -> None:
    """Raise if an output path is too long for the files in it."""
    longest = max((len(os.fsencode(part)) for part in Path(text).parts), default=0)
    if longest > _MAX_NAME:
        message = f"{flag} {_shorten(text)} contains a name of {longest} bytes."
        raise UsageError(message, f"Use names of at most {_MAX_NAME} bytes.")
    if len(os.fsencode(text)) > _MAX_PATH:
        message = f"{flag} {_shorten(text)} is a path of {len(os.fsencode(text)):,} bytes."
        raise UsageError(message, f"Use a path of at most {_MAX_PATH:,} bytes.")


def _shorten(text: str) -> str:
    return f"`{text}`" if len(text) <= _MAX_SHOWN else f"`{text[:_MAX_SHOWN]}…`"


_TEST_DATA = "GRAFTCLI_DATA"  # folder of images and weights for tests and benchmarks


def unknown_variables(environment: Iterable[str], known: Collection[str]) -> Iterator[str]:
    """Yield a warning for each GRAFTCLI_* variable that is not the variable of an option."""
    for name in sorted(environment):
        if name.upper().startswith(_PREFIX) and name not in known and name != _TEST_DATA:
            near = difflib.get_close_matches(name.upper(), known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            yield f"unknown environment variable {name} is ignored{hint}"
