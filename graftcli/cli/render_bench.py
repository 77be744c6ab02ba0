"""The ladder -> one table."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from graftcli.cli.render import OUT, human, line, table

if TYPE_CHECKING:
    from graftcli.api.benching import Bench
    from graftcli.measure.benchmark import BenchEntry
    from graftcli.measure.latency import Latency

_WIDE = 160  # columns of a terminal on which each rung needs one line
_NARROW = 125  # below which one table does not hold them


def bench(found: "Bench") -> None:
    """Print the conditions, then the ladder; ratios are to its first rung."""
    line(f"{found.cpu}; {found.threads} thread{'s' * (found.threads > 1)}")
    if found.source is not None:
        line(f"agreement with {found.rungs[0].name} on {found.images} images of {found.source}")
    if found.rule is not None:
        line(f"classes: {found.rule}")
    line()
    ladder(found.rungs)


def ladder(rungs: "Sequence[BenchEntry]") -> None:
    """Print the table alone. Columns in which nothing was measured are left away. On a narrow terminal, what stands in
    brackets gets a line of its own; on a very narrow one, what was measured gets a table of its own."""
    first = rungs[0]
    batches = sorted({int(size) for rung in rungs for size in rung.latency_ms})
    times = [(f"ms, {size} image{'s' * (size > 1)} (p95)", str(size)) for size in batches]
    columns = {
        "": [rung.name for rung in rungs],
        "as": [f"{rung.format} {rung.precision}" for rung in rungs],
        "size": [human(rung.bytes, "B") + _share(rung.bytes, first.bytes) for rung in rungs],
        "params": [human(rung.params) + _share(rung.params, first.params) for rung in rungs],
        "MACs": [human(rung.macs) + _share(rung.macs, first.macs) if rung.macs else "" for rung in rungs],
        **{title: [_time(rung.latency_ms.get(size)) for rung in rungs] for title, size in times},
        "images/s": [f"{rung.images_per_second:,.0f}" if rung.images_per_second else "" for rung in rungs],
        "faster": [f"{rung.ratio:.2f}x" if rung.ratio else "" for rung in rungs],
        "agrees": [_percent(rung.agreement) for rung in rungs],
        "top-1": [_percent(rung.top1) for rung in rungs],
    }
    kept = {title: cells for title, cells in columns.items() if any(cells)}
    if OUT.width < _WIDE:
        kept = {_folded(title): [_folded(cell) for cell in cells] for title, cells in kept.items()}
    parts = [list(kept)]
    if OUT.width < _NARROW:
        behind = parts[0].index("MACs") + 1 if "MACs" in kept else parts[0].index("params") + 1
        parts = [parts[0][:behind], ["", *parts[0][behind:]]]
    for number, titles in enumerate(parts):
        if number:
            line()
        rows = zip(*(kept[title] for title in titles), strict=True)
        table("", titles, list(rows), right=[title for title in titles if title not in ("", "as")])


def _folded(cell: str) -> str:
    return cell.replace(" (", "\n(").replace(", ", ",\n").replace("pytorch ", "pytorch\n").replace("onnx ", "onnx\n")


def _share(ours: int, first: int | None) -> str:
    """How much it is of the first rung's; nothing where it is the same."""
    return f" ({100 * ours / first:.0f}%)" if first and ours != first else ""


def _time(found: "Latency | None") -> str:
    return "" if found is None else f"{found.median:.2f} ({found.p95:.2f})"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}"
