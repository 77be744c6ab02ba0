"""Render runs and comparisons as self-contained HTML pages."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from graftcli import __version__
from graftcli.formatting import visible
from graftcli.report import format as text_format
from graftcli.report.charts import COLOURS, line_style
from graftcli.report.comparison import TEXT_COLUMNS, Comparison, columns, table_notes
from graftcli.report.curves import curves
from graftcli.report.disagreement import MAX_IMAGES
from graftcli.report.figures import figures
from graftcli.report.plan_diagram import plan_diagram
from graftcli.report.run_view import BenchView, RunView, StageView
from graftcli.store.resume import differences, settings_document

GENERATOR = "graftcli report"  # marks a page as written by graftcli
_MAX_SETTING = 60  # characters of a setting that a comparison shows


@dataclass(frozen=True)
class BlockRow:
    """The layers and costs of one block, in the teacher and in the result."""

    index: int
    span: str
    params: tuple[int, int]
    macs: tuple[int, int]
    replaced: bool


def page(runs: Sequence[RunView]) -> str:
    """The page of one run, or of several: a comparison first, then each run."""
    template = _environment().get_template("page.html")
    title = " · ".join(dict.fromkeys(f"{run.name('teacher')} → {run.name('student')}" for run in runs))
    rendered = template.render(
        title=title,
        generator=f"{GENERATOR} {__version__}",
        runs=runs,
        settings=differing_settings(runs),
        max_images=MAX_IMAGES,
    )
    return visible(rendered)


def comparison_page(comparison: Comparison) -> str:
    """The page of a comparison: its table, its figures, and links to the reports of its runs."""
    rendered = (
        _environment()
        .get_template("compared.html")
        .render(
            comparison=comparison,
            generator=f"{GENERATOR} {__version__}",
            table=columns(comparison),
            text_columns=TEXT_COLUMNS,
            notes=table_notes(comparison),
            figures=figures(comparison),
        )
    )
    return visible(rendered)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("graftcli.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., Any]] = {
        "human": lambda amount, unit="": text_format.typeset(text_format.human(amount, unit)),
        "typeset": text_format.typeset,
        "folded": text_format.folded,
        "change": text_format.change,
        "share": text_format.share,
        "interval": text_format.interval,
        "duration": text_format.duration,
        "numbers": text_format.numbers,
        "sentences": text_format.sentences,
        "speed_heading": text_format.speed_heading,
        "linked": lambda name: quote(name, safe="", errors="surrogateescape"),  # jinja's urlencode is UTF-8 only
    }
    environment.filters |= filters
    environment.globals |= {
        "plan_diagram": lambda run: plan_diagram(
            run.facts, run.settings.blocks, run.result.kept if run.result else None
        ),
        "block_rows": block_rows,
        "curves": _curves,
        "colour": lambda index: f"var(--c{index % COLOURS + 1})",
        "line": line_style,
        "batch_sizes": batch_sizes,
        "zip": zip,
    }
    return environment


def _curves(stage: StageView, prefix: str) -> Markup | None:
    """The loss curves of a stage; None if each unit has a single loss, which the table shows."""
    return curves(stage, prefix) if any(len(unit.losses) > 1 for unit in stage.units) else None


def block_rows(run: RunView) -> list[BlockRow]:
    """The costs of each block before and after the run; they are equal for a block that was not replaced."""
    if run.facts is None:
        return []
    replaced = run.settings.blocks
    rows = []
    for block in run.facts.plan["blocks"]:
        before, index = block["teacher"], block["index"]
        after = block["student"] if index in replaced else before
        spans = dict.fromkeys([before["first"], before["last"]])
        params, macs = ((before[key], after[key]) for key in ("params", "macs"))
        rows.append(BlockRow(index, " … ".join(spans), params, macs, index in replaced))
    return rows


def batch_sizes(bench: Sequence[BenchView]) -> list[str]:
    """The batch sizes for which any entry has a latency, ascending."""
    return sorted({size for entry in bench for size in entry.latency_ms}, key=lambda size: (len(size), size))


def differing_settings(runs: Sequence[RunView]) -> dict[str, list[str]]:
    """The settings that differ between runs: dotted name -> the value in each run."""
    documents = [settings_document(run.settings) for run in runs]
    names = {name for document in documents for name, _, _ in differences(documents[0], document)}
    names.discard("recipe.about")  # without effect on the result
    return {name: [_shortened(_setting(document, name)) for document in documents] for name in sorted(names)}


def _setting(settings: object, name: str) -> object:
    for part in name.split("."):
        if isinstance(settings, list) and part.isdigit() and int(part) < len(settings):
            settings = settings[int(part)]
        elif isinstance(settings, dict) and part in settings:
            settings = settings[part]
        else:
            return "—"
    return settings


def _shortened(value: object) -> str:
    text = _setting_text(value)
    return text if len(text) <= _MAX_SETTING else f"{text[: _MAX_SETTING - 1]}…"


def _setting_text(value: object) -> str:
    """A setting as text without JSON brackets; a map with a name is shown by its name."""
    if isinstance(value, dict):
        return (
            str(value["name"]) if "name" in value else "; ".join(f"{k}: {_setting_text(v)}" for k, v in value.items())
        )
    if isinstance(value, list):
        return ", ".join(map(_setting_text, value)) or "none"
    if value is None or isinstance(value, bool):
        return "none" if value is None else "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
