"""Draw charts as inline SVG in the colours of the page, for light and dark mode."""

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = 8  # --c1 to --c8 of the page
LINE_STYLES = ("solid", "dashed", "dotted")  # valid in matplotlib and CSS; used when the colours repeat
# matplotlib does not support CSS variables: it draws in these placeholder colours, which are then replaced
_TEXT, _GRID = "#010203", "#040506"
INKS = tuple(f"#0a0b{i:02x}" for i in range(1, COLOURS + 1))
_CSS_COLOURS = {_TEXT: "currentColor", _GRID: "var(--line)", **{c: f"var(--c{i})" for i, c in enumerate(INKS, 1)}}
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
    """The chart drawn by `draw`; all ids begin with `prefix`, so that charts on one page do not clash."""
    import matplotlib  # imported here, because every run imports this module but few draw charts
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": prefix}):
        figure = Figure(figsize=(4.0, 2.4), layout="constrained")
        draw(figure.add_subplot())
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return Markup(_inline(stream.getvalue(), prefix, label))


def line_style(index: int) -> str:
    """The line style of series `index`; it changes each time the colours repeat."""
    return LINE_STYLES[index // COLOURS % len(LINE_STYLES)]


def ink(index: int) -> str:
    """The colour of a line."""
    return INKS[index % COLOURS]


def _inline(svg: str, prefix: str, label: str) -> str:
    """Adapt an SVG for a page: no fixed size, prefixed ids, the colours of the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    head, _, body = svg.partition(">")
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    svg = f'{head} role="img" aria-label="{Markup.escape(label)}">{body}'
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    for placeholder, colour in _CSS_COLOURS.items():
        svg = svg.replace(placeholder, colour)
    return svg
