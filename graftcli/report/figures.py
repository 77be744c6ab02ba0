"""Plot accuracy over shots and over seconds, one line per method, as in Figures 3 and 4 of the paper."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from graftcli.report.charts import chart, ink, line_style
from graftcli.report.comparison import Comparison, MethodLine, Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LOG_RATIO = 20  # largest to smallest value above which the axis is logarithmic


@dataclass(frozen=True)
class Figure:
    """One chart of a comparison."""

    title: str
    svg: Markup
    names: tuple[str, ...]  # of the methods, in order of their lines


def figures(comparison: Comparison) -> tuple[Figure, ...]:
    """Both figures, of accuracy if it was measured, else of agreement; empty while nothing is measured."""
    has_accuracy = any(line.accuracy for line in comparison.lines)
    metric = "accuracy" if has_accuracy else "agreement"

    def value(line: MethodLine) -> Spread | None:
        return line.accuracy if has_accuracy else line.agreement

    methods: dict[str, list[MethodLine]] = {}
    one_student = len({line.student for line in comparison.lines}) == 1
    for line in comparison.lines:
        if value(line) is not None and line.seconds is not None:
            methods.setdefault(_name(line, one_student), []).append(line)
    if not methods:
        return ()
    x_values: dict[str, Callable[[MethodLine], float]] = {"shots": lambda line: line.shots, "seconds": _seconds}
    return tuple(
        Figure(
            title=f"{metric.capitalize()} over {x_name}",
            svg=chart(
                lambda axes, x_name=x_name: _draw(  # type: ignore[misc]
                    axes, list(methods.values()), x_values[x_name], value, x_name, metric
                ),
                f"over-{x_name}",
                f"{metric} over {x_name}, one line per method",
            ),
            names=tuple(methods),
        )
        for x_name in x_values
    )


def _name(line: MethodLine, one_student: bool) -> str:
    blocks = f", blocks {line.blocks}" if line.blocks else ""
    return f"{line.method}{blocks}" if one_student else f"{line.method}, {line.student}{blocks}"


def _seconds(line: MethodLine) -> float:
    return line.seconds.mean if line.seconds is not None else 0.0


def _draw(
    axes: "Axes",
    methods: Sequence[Sequence[MethodLine]],
    x_value: Callable[[MethodLine], float],
    value: Callable[[MethodLine], Spread | None],
    x_name: str,
    metric: str,
) -> None:
    for index, lines in enumerate(methods):
        points = [(x_value(line), spread) for line in lines if (spread := value(line)) is not None]
        xs = [x for x, _ in points]
        means = [100 * spread.mean for _, spread in points]
        deviations = [100 * (spread.sd or 0.0) for _, spread in points]
        style, colour = line_style(index), ink(index)
        axes.errorbar(
            xs,
            means,
            yerr=deviations,
            linestyle=style,
            color=colour,
            linewidth=1.5,
            marker="o",
            markersize=3.5,
            capsize=2,
        )
    all_xs = [x_value(line) for lines in methods for line in lines]
    _format_axes(axes, all_xs, ticks=sorted(set(all_xs)) if x_name == "shots" else None)
    axes.set_xlabel(x_name)
    axes.set_ylabel(f"{metric}, %")


def _format_axes(axes: "Axes", values: Sequence[float], ticks: Sequence[float] | None) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    if min(values) > 0 and max(values) / min(values) > _LOG_RATIO:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    if ticks is not None:
        axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(True, linewidth=0.6)
