"""Facts -> text on a terminal. The only place that imports rich: stdout is the result, stderr is everything else."""

import json
import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console, ConsoleDimensions
from rich.table import Table
from rich.text import Text

from graftcli.cli import render_streams
from graftcli.cli.exits import Failure
from graftcli.formatting import visible
from graftcli.report.format import human as human

_UNWRAPPED = 10_000  # columns where no terminal limits them: `graftcli plan | grep layer3` sees whole rows


class _Console(Console):
    """A console that wraps only for a terminal, and leaves a reader that went away to the command's own exit."""

    @property
    def size(self) -> ConsoleDimensions:
        """The terminal's size, the size in COLUMNS, or no limit."""
        size = super().size
        limited = self.is_terminal or "COLUMNS" in self._environ
        return size if limited else ConsoleDimensions(_UNWRAPPED, size.height)

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self._width, self._height = new_size

    def on_broken_pipe(self) -> None:
        """Raise the BrokenPipeError on; rich would exit with the code of a bug."""
        raise


OUT = _Console(highlight=False)
ERR = _Console(highlight=False, stderr=True)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], right: Container[str] = ()) -> None:
    """Print a table on stdout. The columns named in `right` hold numbers; None is an empty cell.

    Without any column names there is no head.
    """
    drawn = Table(
        title=_text(title, "bold") if title else None,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_header=any(columns),
        show_edge=False,
        pad_edge=False,
    )
    for name in columns:
        drawn.add_column(_text(name), justify="right" if name in right else "left")
    for row in rows:
        drawn.add_row(*(_text("" if cell is None else str(cell)) for cell in row))
    OUT.print(drawn)


def line(text: str = "") -> None:
    """Print one paragraph of the result on stdout."""
    OUT.print(_text(text), soft_wrap=True)


def document(result: Any) -> None:
    """Print the result as one JSON document on stdout."""
    render_streams.write_result(as_json(result, indent=2) + "\n")


def warning(text: str) -> None:
    """Say on stderr what the user should know although the command goes on."""
    ERR.print(Text.assemble(("warning: ", "yellow"), _text(text)), soft_wrap=True)


def note(text: str) -> None:
    """Say on stderr what happens."""
    ERR.print(_text(text), soft_wrap=True)


def error(told: Failure) -> None:
    """Say on stderr what was found, then what to do, then, for a bug, where it happened."""
    for text, style in ((told.found, "red"), (told.mend, ""), (told.trace, "dim")):
        if text:
            ERR.print(_text(text.rstrip("\n"), style), soft_wrap=True)


def error_document(told: Failure) -> None:
    """`error` as one JSON document on stderr."""
    facts = {name: value for name, value in asdict(told).items() if name != "trace" or value}
    render_streams.write_message(as_json({"error": facts}, indent=2) + "\n")


def _text(text: str, style: str = "") -> Text:
    """Text without markup; a control character of some file's name is shown, not obeyed."""
    return Text(visible(text), style)


def as_json(value: Any, indent: int | None = None) -> str:
    """The value as JSON, which knows no number that is not finite: it is null, as in a run's files."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
