"""The range of every number on a command line, and what holds for every name on it."""

import difflib
import math
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from graftcli.errors import GraftError, ImagesError, UsageError

LARGEST_IMAGE = 16_384  # height or width
_LONGEST = 200  # bytes of a name of a file: the system takes 255, of which the names of parts of it need some
_LONGEST_PATH = 3_000  # bytes: the system takes 4,096
_NAMED = 60  # characters of a value that an error shows
# what is beyond them is a mistyped number, or fits no machine
MOST: Mapping[str, int | float] = {
    "--num-classes": 10_000_000,
    "--in-chans": 4_096,
    "--blocks-count": 1_000,
    "--batch": 65_536,
    "--jobs": 1_024,
    "--threads": 4_096,
    "--crop-pct": 10.0,
    "--cache-gb": 1_000_000.0,
    "--steps-scale": 10_000.0,
    "--seconds": 31_536_000.0,  # a year
    "--steps": 1_000_000_000,
    "--draws": 10_000,
    "--shots": 100_000_000,
    "--mean": 1_000.0,
    "--std": 1_000.0,
}
LEAST: Mapping[str, int | float] = {"--mean": -1_000.0, "--std": 1e-6}
_PREFIX = "GRAFTCLI_"
_IMAGES = ("--images", "--val-images", "--test", "--calib")
_WRITTEN = ("--out",)


def bounded(flag: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an option, with a check of its range: its own, else that of its flag; None without either."""
    rest = dict(settings)
    least, most = rest.pop("min", LEAST.get(flag)), rest.pop("max", MOST.get(flag))
    if least is None and most is None:
        return rest
    low, high = -math.inf if least is None else least, math.inf if most is None else most

    def check_range(value: Any) -> Any:
        for number in _each(value):
            if number is not None and not low <= number <= high:  # so is a NaN
                raise UsageError(f"{flag} is {_number(number)}.", f"Give {_range(low, high)}.")
        return value

    return {**rest, "callback": check_range}


def _range(least: float, most: float) -> str:
    """The numbers from `least` to `most`, in words."""
    low = f" from {_number(least)}" if math.isfinite(least) else ""
    high = f"{' ' if low else ' up '}to {_number(most)}" if math.isfinite(most) else ""
    return f"a number{low}{high}"


def _number(value: float) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if 1 <= abs(value) < 1e15 and value.is_integer() else f"{value:g}"
    return f"{value:,}" if abs(value) < 10**20 else f"{str(value)[:8]}… ({len(str(value))} digits)"


def check_names(values: Mapping[str, Any]) -> None:
    """Refuse a name that cannot be written down or used; `values` are those of a command by their flags."""
    for flag, value in values.items():
        for one in _each(value):
            if isinstance(one, str | os.PathLike):
                _check_text(flag, os.fspath(one))


def _each(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list | tuple) else (value,)


def _check_text(flag: str, text: str) -> None:
    kind: type[GraftError] = ImagesError if flag in _IMAGES or flag == "DIR" else UsageError
    if re.search(r"[\ud800-\udfff]", text):
        raise kind(
            f"{flag} {_shown(text)} is not UTF-8: its bytes are {os.fsencode(text)[:_NAMED]!r}.",
            "Rename the file or folder so that its name is UTF-8, for example with `convmv -t utf8`.",
        )
    if flag in _WRITTEN:
        _check_length(flag, text)


def _check_length(flag: str, text: str) -> None:
    """Whether a path that is to be written is short enough for every file in it."""
    longest = max((len(os.fsencode(part)) for part in Path(text).parts), default=0)
    if longest > _LONGEST:
        found = f"{flag} {_shown(text)} holds a name of {longest} bytes."
        raise UsageError(found, f"Give names of at most {_LONGEST} bytes.")
    if len(os.fsencode(text)) > _LONGEST_PATH:
        found = f"{flag} {_shown(text)} is a path of {len(os.fsencode(text)):,} bytes."
        raise UsageError(found, f"Give a path of at most {_LONGEST_PATH:,} bytes.")


def _shown(text: str) -> str:
    return f"`{text}`" if len(text) <= _NAMED else f"`{text[:_NAMED]}…`"


_OF_TESTS = "GRAFTCLI_DATA"  # where tests and benchmarks find real images and weights


def mistyped(environment: Iterable[str], known: Collection[str]) -> Iterator[str]:
    """A warning for each GRAFTCLI_* variable that nothing reads."""
    for name in sorted(environment):
        if name.upper().startswith(_PREFIX) and name not in known and name != _OF_TESTS:
            near = difflib.get_close_matches(name.upper(), known, n=1)
            meant = f"; the nearest one that does is {near[0]}" if near else ""
            yield f"the variable {name} is ignored, because it stands for no option{meant}"
