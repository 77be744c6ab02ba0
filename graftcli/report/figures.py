"""Accuracy over shots and over seconds, as the paper's Figures 3 and 4: a line for each method, with its spread."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from graftcli.report.charts import chart, ink, line_style
from graftcli.report.comparison import Comparison, MethodLine, Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDE = 20  # largest over smallest value: above it an axis of powers


@dataclass(frozen=True)
class Figure:
    title: str
    svg: Markup
    names: tuple[str, ...]  # of its lines, in order


def figures(found: Comparison) -> tuple[Figure, ...]:
    """Both figures, for accuracy where it was measured, else for agreement; none before there is a number."""
    has_accuracy = any(line.accuracy for line in found.lines)
    word = "accuracy" if has_accuracy else "agreement"

    def height(line: MethodLine) -> Spread | None:
        return line.accuracy if has_accuracy else line.agreement

    methods: dict[str, list[MethodLine]] = {}
    alone = len({line.student for line in found.lines}) == 1
    for line in found.lines:
        if height(line) is not None and line.seconds is not None:
            methods.setdefault(_name(line, alone), []).append(line)
    if not methods:
        return ()
    widths: dict[str, Callable[[MethodLine], float]] = {"shots": lambda line: line.shots, "seconds": _seconds}
    return tuple(
        Figure(
            title=f"{word.capitalize()} over {over}",
            svg=chart(
                lambda axes, over=over: _draw(axes, list(methods.values()), widths[over], height, over, word),  # type: ignore[misc]
                f"over-{over}",
                f"{word} over {over}, a line for each method",
            ),
            names=tuple(methods),
        )
        for over in widths
    )


def _name(line: MethodLine, alone: bool) -> str:
    blocks = f", blocks {line.blocks}" if line.blocks else ""
    return f"{line.method}{blocks}" if alone else f"{line.method}, {line.student}{blocks}"


def _seconds(line: MethodLine) -> float:
    return line.seconds.mean if line.seconds is not None else 0.0


def _draw(
    axes: "Axes",
    methods: Sequence[Sequence[MethodLine]],
    width: Callable[[MethodLine], float],
    height: Callable[[MethodLine], Spread | None],
    over: str,
    word: str,
) -> None:
    for index, lines in enumerate(methods):
        points = [(width(line), found) for line in lines if (found := height(line)) is not None]
        across = [x for x, _ in points]
        up = [100 * found.mean for _, found in points]
        spread = [100 * (found.sd or 0.0) for _, found in points]
        style, colour = line_style(index), ink(index)
        axes.errorbar(
            across, up, yerr=spread, linestyle=style, color=colour, linewidth=1.5, marker="o", markersize=3.5, capsize=2
        )
    every = [width(line) for lines in methods for line in lines]
    _dress(axes, every, ticks=sorted(set(every)) if over == "shots" else None)
    axes.set_xlabel(over)
    axes.set_ylabel(f"{word}, %")


def _dress(axes: "Axes", values: Sequence[float], ticks: Sequence[float] | None) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    if min(values) > 0 and max(values) / min(values) > _WIDE:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    if ticks is not None:
        axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(True, linewidth=0.6)
