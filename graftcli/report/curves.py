"""The losses of a stage over its steps, as a chart."""

from typing import TYPE_CHECKING

from markupsafe import Markup

from graftcli.report.charts import chart, ink, line_style
from graftcli.report.run_view import StageView, TaskView

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDE = 5  # largest over smallest loss: below it an axis of powers would have hardly a number


def curves(stage: StageView, prefix: str) -> Markup:
    """The loss of each unit over its steps; `prefix` begins all ids, so that several pictures fit on one page."""
    return chart(lambda axes: _drawn(axes, stage), prefix, f"loss of {stage.name} over its steps")


def _drawn(axes: "Axes", stage: StageView) -> None:
    for index, unit in enumerate(stage.units):
        _draw(axes, unit, index)
    losses = [loss for unit in stage.units for _, loss in unit.losses]
    _dress(axes, logarithmic=min(losses) > 0 and max(losses) / min(losses) > _WIDE)


def _draw(axes: "Axes", unit: TaskView, index: int) -> None:
    steps, losses = zip(*unit.losses, strict=True)
    marker = "o" if len(steps) == 1 else ""
    axes.plot(steps, losses, linestyle=line_style(index), color=ink(index), linewidth=1.5, marker=marker)


def _dress(axes: "Axes", logarithmic: bool) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    if logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlim(left=0)
    axes.grid(True, linewidth=0.6)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
