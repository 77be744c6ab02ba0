"""The losses of a stage as an SVG whose colours are the page's own: it is right in light and in dark."""

import io
import re
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from graftcli.report.shown import Stage, Unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = 8  # --c1 to --c8 of the page
_WIDE = 5  # largest over smallest loss: below it an axis of powers would have hardly a number
LINES = ("solid", "dashed", "dotted")  # for units beyond the colours; matplotlib and CSS call them the same
# matplotlib knows no CSS: it draws in colours that nothing else has, which then become the page's
_TEXT, _GRID = "#010203", "#040506"
_INKS = tuple(f"#0a0b{i:02x}" for i in range(1, COLOURS + 1))
_PAGE = {_TEXT: "currentColor", _GRID: "var(--line)", **{c: f"var(--c{i})" for i, c in enumerate(_INKS, 1)}}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _TEXT,
    "axes.labelcolor": _TEXT,
    "axes.edgecolor": _GRID,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    "grid.color": _GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.usetex": False,
}


def curves(stage: Stage, prefix: str) -> Markup:
    """The loss of each unit over its steps; `prefix` begins all ids, so that several pictures fit on one page."""
    import matplotlib  # here, because every run imports this module long before it draws
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": prefix}):
        figure = Figure(figsize=(4.0, 2.4), layout="constrained")
        axes = figure.add_subplot()
        for index, unit in enumerate(stage.units):
            _draw(axes, unit, index)
        losses = [loss for unit in stage.units for _, loss in unit.losses]
        _dress(axes, logarithmic=min(losses) > 0 and max(losses) / min(losses) > _WIDE)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return Markup(_inline(stream.getvalue(), prefix, f"loss of {stage.name} over its steps"))


def _draw(axes: "Axes", unit: Unit, index: int) -> None:
    steps, losses = zip(*unit.losses, strict=True)
    style, colour = LINES[index // COLOURS % len(LINES)], _INKS[index % COLOURS]
    axes.plot(steps, losses, linestyle=style, color=colour, linewidth=1.5, marker="o" if len(steps) == 1 else "")


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


def _inline(svg: str, prefix: str, label: str) -> str:
    """The picture as a part of a page: without a size of its own, its ids apart, its colours the page's."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    head, _, body = svg.partition(">")
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    svg = f'{head} role="img" aria-label="{Markup.escape(label)}">{body}'
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    for drawn, wanted in _PAGE.items():
        svg = svg.replace(drawn, wanted)
    return svg
