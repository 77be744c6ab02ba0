"""A comparison -> one table."""

from typing import TYPE_CHECKING

from graftcli.cli.render import line, table

if TYPE_CHECKING:
    from graftcli.report.comparison import Comparison


def comparison(found: "Comparison") -> None:
    """Print the table, what has to be known to read it, and where it lies."""
    from graftcli.report.comparison import TEXTS, columns, said

    shown = columns(found)
    table("", list(shown), zip(*shown.values(), strict=True), right=[title for title in shown if title not in TEXTS])
    line()
    for text in said(found):
        line(text)
    line(f"written: {found.folder}")
