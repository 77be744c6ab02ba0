"""Draw the loss curves of a stage."""

from typing import TYPE_CHECKING

from markupsafe import Markup

from graftcli.report.charts import chart, ink, line_style
from graftcli.report.run_view import StageView, TaskView

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LOG_RATIO = 5  # largest to smallest loss above which the axis is logarithmic


def curves(stage: StageView, prefix: str) -> Markup:
    """The loss of each unit over its steps; all ids begin with `prefix`, so that charts on one page do not clash."""
    return chart(lambda axes: _draw(axes, stage), prefix, f"loss of {stage.name} over steps")


def _draw(axes: "Axes", stage: StageView) -> None:
    for index, unit in enumerate(stage.units):
        _plot(axes, unit, index)
    losses = [loss for unit in stage.units for _, loss in unit.losses]
    _format_axes(axes, logarithmic=min(losses) > 0 and max(losses) / min(losses) > _LOG_RATIO)


def _plot(axes: "Axes", unit: TaskView, index: int) -> None:
    steps, losses = zip(*unit.losses, strict=True)
    marker = "o" if len(steps) == 1 else ""
    axes.plot(steps, losses, linestyle=line_style(index), color=ink(index), linewidth=1.5, marker=marker)


def _format_axes(axes: "Axes", logarithmic: bool) -> None:
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
