"""Names from outside are shown as text: in model cards, pages, Markdown and terminals."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from graftcli.formatting import code, fenced, markdown, one_line, visible
from graftcli.images.pixels import Preprocess
from graftcli.models.origin import LibraryOrigin
from graftcli.report.comparison import CellScore, Comparison, TeacherScore, method_lines
from graftcli.report.comparison import markdown as table_of
from graftcli.report.disagreement import Prediction
from graftcli.report.page import comparison_page, page
from graftcli.report.run_view import BenchView, load_run_view
from graftcli.store.model_card import CardFacts, card
from tests.reports import LADDER, folder_of_run, tiny_facts

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "\"><svg onload='alert(1)'>",
    "a|b",
    "``` `code`",
    "two\nlines\r\n# three",
    "\x1b[2J\x07\x9b",
    "\u202egnp.exe\u2066",
    "caf\udce9",
    "{{ 7 * 7 }} {% raw %}",
    "[link](javascript:alert(1)) ![i](x) **bold** _em_ $x$",
    "</style></title></pre></td></textarea>",
)
NAMES = pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
UNSEEN = set("\x00\x07\x0b\x1b\r\x7f\x9b\u202e\u2066\u2028\udce9")


class Elements(HTMLParser):
    """The elements of a page with the names of their attributes, without the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, tuple(name for name, _ in attrs)))
        for name, value in attrs:
            assert not name.startswith("on") and not str(value).lower().strip().startswith("javascript:"), (tag, attrs)


def run_page(folder: Path, name: str) -> str:
    """The page of a run in which everything that comes from outside is `name`."""
    rungs = [{**rung, "name": f"{name} (student)"} for rung in LADDER]
    run = load_run_view(folder_of_run(folder, names=(name, name + "2"), warnings=[name], ladder=rungs), None, [name])
    facts = tiny_facts()
    compared = facts.compared
    assert compared is not None
    answer = Prediction(1, name, 0.5)
    worst = tuple(replace(one, image=name, teacher=answer, student=answer) for one in compared.worst)
    plan = json.loads(json.dumps(facts.plan))
    for role in ("teacher", "student"):
        plan[role] |= {"name": name, "weights": name}
        for block in plan["blocks"]:
            block[role] |= {"first": name, "last": f"{name}."}
    plan["notes"] = [name]
    facts = replace(facts, plan=plan, cuts=tuple((name, name) for _ in facts.cuts))
    facts = replace(facts, compared=replace(compared, worst=worst))
    settings = run.settings.model_copy(
        update={"images": name, "recipe": run.settings.recipe.model_copy(update={"name": name})}
    )
    record = run.run.with_session(command=f"graftcli distill --teacher '{name}'", versions={name: name})
    run = replace(run, run=record.model_copy(update={"settings": settings}))
    bench = tuple(replace(rung, format=name, precision=name) for rung in run.bench)
    return page([replace(run, facts=facts, bench=bench), replace(run, facts=facts, folder=folder / "other")])


def comparison(name: str) -> Comparison:
    done = {"images": 1, "steps": 1, "params": 1, "macs": 1, "accuracy": 0.5, "agreement": 0.5, "seconds": 1.0}
    trials = (
        CellScore(name, name, name, name, name, shots=1, draw=0, seed=0, peak_memory=1, **done),  # type: ignore[arg-type]
        CellScore(name, name, f"{name}2", name, None, shots=1, draw=0, seed=0, fault=name),
    )
    teacher = TeacherScore(name, 1, 1, 0.5)
    return Comparison(name, teacher, name, name, name, name, name, (name,), method_lines(trials), trials)


@NAMES
def test_a_name_adds_no_element_and_no_attribute_to_a_page(tmp_path: Path, name: str) -> None:
    for written in (run_page(tmp_path / "a", name), comparison_page(comparison(name))):
        assert not UNSEEN & set(written)
        written.encode("utf-8")
    plain = Elements(run_page(tmp_path / "b", "plain")).found
    hostile = Elements(run_page(tmp_path / "c", name)).found
    # a long name takes more lines of a box, and a name with a batch's numbers none
    assert set(hostile) <= set(plain)
    assert Elements(comparison_page(comparison(name))).found == Elements(comparison_page(comparison("plain"))).found


def made(name: str) -> CardFacts:
    preprocess = Preprocess((8, 8), 3, (0.5,) * 3, (0.5,) * 3, 1.0, "bilinear")
    origin: LibraryOrigin = {"kind": "timm", "name": name, "kwargs": {}, "num_classes": 5}
    command = f"graftcli distill --teacher '{name}'"
    return CardFacts(origin, origin, preprocess, name, 10, command, {name: name, "agreement": 0.5})


@NAMES
def test_a_name_stays_within_its_place_in_the_card(tmp_path: Path, name: str) -> None:
    written, plain = (card(tmp_path, made(text)).splitlines() for text in (name, "plain"))
    assert not UNSEEN & set("".join(written))
    "\n".join(written).encode("utf-8")
    kinds = [[re.match(r" {0,3}(#+|-|\||`{3,}|---)?", line)[0].strip() for line in text] for text in (written, plain)]  # type: ignore[index]
    extra = name.count("\n")  # the lines of the command, which are indented as code
    assert [kind for kind in kinds[0] if kind] == [kind for kind in kinds[1] if kind] and len(written) <= len(
        plain
    ) + 2 * extra
    rows = [line for line in written if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 3 for row in rows)
    outside = "".join(line for line in written if not line.startswith("    "))
    assert not re.search(r"(?<!\\)<[a-z/]", re.sub(r"(`+).*?\1", "", outside))


@NAMES
def test_a_name_stays_within_its_cell_of_a_comparison(name: str) -> None:
    rows = [line for line in table_of(comparison(name)).splitlines() if line.startswith("|")]
    assert len(rows) == 5 and len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
    assert not UNSEEN & set(table_of(comparison(name)))


@NAMES
def test_markdown_and_code_hold_the_text_and_no_markup(name: str) -> None:
    for text in (markdown(name), code(name), one_line(name)):
        assert "\n" not in text and not UNSEEN & set(text)
    assert not re.search(r"(?<!\\)[<>|*\[\]`]", markdown(name).replace("\\\\", ""))
    block = fenced(name, "sh").splitlines()
    assert block[0].rstrip("sh") == block[-1] and block[-1] not in block[1:-1]


def test_ordinary_names_stay_as_they_are() -> None:
    for name in (
        "resnet34",
        "mobilenetv3_large_100",
        "größe 日本",
        "nets.py:resnet(depth=20)",
        "87.74 ± 0.31",
        "a-b, c",
    ):
        assert markdown(name) == visible(name) == name
        assert code(name) == f"`{name}`"


def test_a_ladder_with_a_hostile_batch_is_not_shown(tmp_path: Path) -> None:
    spoilt = [{**LADDER[0], "latency_ms": {"<script>": {"median": 1.0, "p95": 1.0}}}]
    run = load_run_view(folder_of_run(tmp_path, ladder=spoilt), None)
    assert run.bench == () and "bench.json" in run.warnings[-1]
    assert isinstance(BenchView("a", "b", "c", 1), BenchView)
