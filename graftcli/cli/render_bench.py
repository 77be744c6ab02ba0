"""Print a benchmark as a table."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from graftcli.cli.render import OUT, human, line, table
from graftcli.report.format import speed_heading

if TYPE_CHECKING:
    from graftcli.api.benching import Bench
    from graftcli.measure.benchmark import BenchEntry
    from graftcli.measure.latency import Latency

_WIDE = 165  # columns of a terminal that fit each entry in one line
_NARROW = 125  # below this width, the columns are split into two tables


def bench(result: "Bench") -> None:
    """Print the conditions of a benchmark and its table; ratios are relative to the first entry."""
    line(f"{result.cpu}; {result.threads} thread{'s' * (result.threads > 1)}")
    if result.source is not None:
        line(f"agreement with {result.rungs[0].name} on {result.images} images of {result.source}")
    if result.rule is not None:
        line(f"classes: {result.rule}")
    line()
    line(speed_heading(entry.format for entry in result.rungs))
    entries(result.rungs)


def entries(results: "Sequence[BenchEntry]") -> None:
    """Print the table of a benchmark without empty columns.

    Narrow terminals get the values in brackets on separate lines, very narrow ones a second table for measurements.
    """
    reference = results[0]
    batches = sorted({int(size) for entry in results for size in entry.latency_ms})
    times = [(f"ms, {size} image{'s' * (size > 1)} (p95)", str(size)) for size in batches]
    columns = {
        "": [entry.name for entry in results],
        "format": [f"{entry.format} {entry.precision}" for entry in results],
        "size": [human(entry.bytes, "B") + _share(entry.bytes, reference.bytes) for entry in results],
        "params": [human(entry.params) + _share(entry.params, reference.params) for entry in results],
        "MACs": [human(entry.macs) + _share(entry.macs, reference.macs) if entry.macs else "" for entry in results],
        **{title: [_time(entry.latency_ms.get(size)) for entry in results] for title, size in times},
        "images/s": [f"{entry.images_per_second:,.0f}" if entry.images_per_second else "" for entry in results],
        "speedup": [f"{entry.ratio:.2f}x" if entry.ratio else "" for entry in results],
        "agreement": [_percent(entry.agreement) for entry in results],
        "top-1": [_percent(entry.top1) for entry in results],
    }
    columns = {title: cells for title, cells in columns.items() if any(cells)}
    if OUT.width < _WIDE:
        columns = {_wrap(title): [_wrap(cell) for cell in cells] for title, cells in columns.items()}
    parts = [list(columns)]
    if OUT.width < _NARROW:
        end = parts[0].index("MACs" if "MACs" in columns else "params") + 1
        parts = [parts[0][:end], ["", *parts[0][end:]]]
    for number, titles in enumerate(parts):
        if number:
            line()
        rows = zip(*(columns[title] for title in titles), strict=True)
        table("", titles, list(rows), right=[title for title in titles if title not in ("", "format")])


def _wrap(cell: str) -> str:
    return cell.replace(" (", "\n(").replace(", ", ",\n").replace("pytorch ", "pytorch\n").replace("onnx ", "onnx\n")


def _share(value: int, reference: int | None) -> str:
    """Format a value as a percentage of the reference, unless they are equal."""
    return f" ({100 * value / reference:.0f}%)" if reference and value != reference else ""


def _time(latency: "Latency | None") -> str:
    return "" if latency is None else f"{latency.median:.2f} ({latency.p95:.2f})"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}"
