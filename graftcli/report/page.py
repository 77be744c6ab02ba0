"""What several folders hold -> one HTML page, with nothing outside it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from graftcli import __version__
from graftcli.formatting import visible
from graftcli.report import format as words
from graftcli.report.charts import COLOURS, line_style
from graftcli.report.comparison import TEXTS, Comparison, columns, said
from graftcli.report.curves import curves
from graftcli.report.disagreement import MOST_IMAGES
from graftcli.report.figures import figures
from graftcli.report.plan_diagram import picture
from graftcli.report.run_view import BenchView, RunView, StageView
from graftcli.store.run_file import differences

GENERATOR = "graftcli report"  # by which a page is known as one of ours
_LONG = 60  # characters of a setting that a comparison shows


@dataclass(frozen=True)
class BlockRow:
    """What one block holds and costs, in the teacher and in what came out."""

    index: int
    span: str
    params: tuple[int, int]
    macs: tuple[int, int]
    replaced: bool


def page(runs: Sequence[RunView]) -> str:
    """One run at length, or several side by side and then each at length."""
    template = _environment().get_template("page.html")
    title = " · ".join(dict.fromkeys(f"{run.name('teacher')} → {run.name('student')}" for run in runs))
    rendered = template.render(
        title=title,
        generator=f"{GENERATOR} {__version__}",
        runs=runs,
        settings=differing_settings(runs),
        most_images=MOST_IMAGES,
    )
    return visible(rendered)


def comparison_page(found: Comparison) -> str:
    """The table of a comparison, its figures, and the way to the report of each of its runs."""
    rendered = (
        _environment()
        .get_template("compared.html")
        .render(
            found=found,
            generator=f"{GENERATOR} {__version__}",
            table=columns(found),
            texts=TEXTS,
            said=said(found),
            figures=figures(found),
        )
    )
    return visible(rendered)


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("graftcli.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    offered: dict[str, Callable[..., Any]] = {
        "human": lambda amount, unit="": words.typeset(words.human(amount, unit)),
        "typeset": words.typeset,
        "folded": words.folded,
        "change": words.change,
        "share": words.share,
        "duration": words.duration,
        "numbers": words.numbers,
        "sentences": words.sentences,
        "linked": lambda name: quote(name, safe="", errors="surrogateescape"),  # not jinja's, which knows UTF-8 alone
    }
    made.filters |= offered
    made.globals |= {
        "picture": lambda run: picture(run.facts, run.settings["blocks"], (run.result or {}).get("kept")),
        "block_rows": block_rows,
        "curves": _curves,
        "colour": lambda index: f"var(--c{index % COLOURS + 1})",
        "line": line_style,
        "batches": batches,
        "zip": zip,
    }
    return made


def _curves(stage: StageView, prefix: str) -> Markup | None:
    """Nothing where no unit was told of more than once: its one number stands in the table."""
    return curves(stage, prefix) if any(len(unit.losses) > 1 for unit in stage.units) else None


def block_rows(run: RunView) -> list[BlockRow]:
    """Each block before and after; one that was not replaced is the teacher's still."""
    if run.facts is None:
        return []
    replaced = run.settings["blocks"]
    rows = []
    for block in run.facts.plan["blocks"]:
        before, index = block["teacher"], block["index"]
        after = block["student"] if index in replaced else before
        spans = dict.fromkeys([before["first"], before["last"]])
        params, macs = ((before[key], after[key]) for key in ("params", "macs"))
        rows.append(BlockRow(index, " … ".join(spans), params, macs, index in replaced))
    return rows


def batches(ladder: Sequence[BenchView]) -> list[str]:
    """The batch sizes whose latencies a ladder tells."""
    return sorted({size for rung in ladder for size in rung.latency_ms}, key=lambda size: (len(size), size))


def differing_settings(runs: Sequence[RunView]) -> dict[str, list[str]]:
    """What decides a result and is not the same in all runs: its dotted name, and what it is in each."""
    names = {name for run in runs for name, _, _ in differences(runs[0].settings, run.settings)}
    names.discard("recipe.about")  # which decides nothing
    return {name: [_shortened(_setting(run.settings, name)) for run in runs] for name in sorted(names)}


def _setting(settings: Any, name: str) -> Any:
    for part in name.split("."):
        if isinstance(settings, list) and part.isdigit() and int(part) < len(settings):
            settings = settings[int(part)]
        elif isinstance(settings, dict) and part in settings:
            settings = settings[part]
        else:
            return "—"
    return settings


def _shortened(value: Any) -> str:
    text = _said(value)
    return text if len(text) <= _LONG else f"{text[: _LONG - 1]}…"


def _said(value: Any) -> str:
    """A setting without the brackets of JSON; what has a name is called by it."""
    if isinstance(value, dict):
        return str(value["name"]) if "name" in value else "; ".join(f"{k}: {_said(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(_said, value)) or "none"
    if value is None or isinstance(value, bool):
        return "none" if value is None else "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
