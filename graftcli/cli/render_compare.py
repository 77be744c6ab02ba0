"""Print a comparison as a table."""

from typing import TYPE_CHECKING

from graftcli.cli.render import line, table

if TYPE_CHECKING:
    from graftcli.report.comparison import Comparison


def comparison(result: "Comparison") -> None:
    """Print the table of a comparison, its notes and its folder."""
    from graftcli.report.comparison import TEXT_COLUMNS, columns, table_notes

    cells = columns(result)
    table(
        "",
        list(cells),
        zip(*cells.values(), strict=True),
        right=[title for title in cells if title not in TEXT_COLUMNS],
    )
    line()
    for text in table_notes(result):
        line(text)
    line(f"written: {result.folder}")
