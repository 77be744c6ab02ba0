"""A chart as an SVG whose colours are the page's own: it is right in light and in dark."""

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = 8  # --c1 to --c8 of the page
LINES = ("solid", "dashed", "dotted")  # for units beyond the colours; matplotlib and CSS call them the same
# matplotlib knows no CSS: it draws in colours that nothing else has, which then become the page's
_TEXT, _GRID = "#010203", "#040506"
INKS = tuple(f"#0a0b{i:02x}" for i in range(1, COLOURS + 1))
_PAGE = {_TEXT: "currentColor", _GRID: "var(--line)", **{c: f"var(--c{i})" for i, c in enumerate(INKS, 1)}}
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


def chart(draw: "Callable[[Axes], None]", prefix: str, label: str) -> Markup:
    """What `draw` draws; `prefix` begins all ids, so that several charts fit on one page."""
    import matplotlib  # here, because every run imports this module long before it draws
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": prefix}):
        figure = Figure(figsize=(4.0, 2.4), layout="constrained")
        draw(figure.add_subplot())
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return Markup(_inline(stream.getvalue(), prefix, label))


def line_style(index: int) -> str:
    """Of the units or methods beyond the colours too."""
    return LINES[index // COLOURS % len(LINES)]


def ink(index: int) -> str:
    return INKS[index % COLOURS]


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
