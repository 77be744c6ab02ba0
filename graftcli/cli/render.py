"""Print results on stdout and messages on stderr. Only `render` modules import rich."""

import json
import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import asdict

from rich import box
from rich.console import Console, ConsoleDimensions
from rich.table import Table
from rich.text import Text

from graftcli.cli import render_streams
from graftcli.cli.exits import Failure
from graftcli.formatting import visible
from graftcli.report.format import human as human

_UNWRAPPED = 10_000  # columns without a terminal, so that `graftcli plan | grep layer3` gets whole rows


class _Console(Console):
    """A console that wraps only on a terminal, and raises on a broken pipe."""

    @property
    def size(self) -> ConsoleDimensions:
        """Size of the terminal or from COLUMNS, else unlimited."""
        size = super().size
        limited = self.is_terminal or "COLUMNS" in self._environ
        return size if limited else ConsoleDimensions(_UNWRAPPED, size.height)

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self._width, self._height = new_size

    def on_broken_pipe(self) -> None:
        """Re-raise the BrokenPipeError; rich would exit with code 1."""
        raise


OUT = _Console(highlight=False)
ERR = _Console(highlight=False, stderr=True)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], right: Container[str] = ()) -> None:
    """Print a table on stdout, without a header if no column has a name.

    Columns in `right` are right-aligned; a None is an empty cell.
    """
    grid = Table(
        title=_text(title, "bold") if title else None,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_header=any(columns),
        show_edge=False,
        pad_edge=False,
    )
    for name in columns:
        grid.add_column(_text(name), justify="right" if name in right else "left")
    for row in rows:
        grid.add_row(*(_text("" if cell is None else str(cell)) for cell in row))
    OUT.print(grid)


def line(text: str = "") -> None:
    """Print one line of the result on stdout."""
    OUT.print(_text(text), soft_wrap=True)


def document(result: object) -> None:
    """Print the result as one JSON document on stdout."""
    render_streams.write_result(as_json(result, indent=2) + "\n")


def warning(text: str) -> None:
    """Print a warning on stderr."""
    ERR.print(Text.assemble(("warning: ", "yellow"), _text(text)), soft_wrap=True)


def note(text: str) -> None:
    """Print a progress message on stderr."""
    ERR.print(_text(text), soft_wrap=True)


def error(failure: Failure) -> None:
    """Print the message of a failure, its fix and the traceback of a bug on stderr."""
    for text, style in ((failure.message, "red"), (failure.fix, ""), (failure.trace, "dim")):
        if text:
            ERR.print(_text(text.rstrip("\n"), style), soft_wrap=True)


def error_document(failure: Failure) -> None:
    """Print a failure as one JSON document on stderr."""
    fields = {name: value for name, value in asdict(failure).items() if name != "trace" or value}
    render_streams.write_message(as_json({"error": fields}, indent=2) + "\n")


def _text(text: str, style: str = "") -> Text:
    """Create text without markup, and with control characters escaped."""
    return Text(visible(text), style)


def as_json(value: object, indent: int | None = None) -> str:
    """Serialise a value as JSON; numbers that are not finite become null, as in the files of a run."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
