"""Any value anywhere in a document that can be made again is ignored with one warning."""

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from graftcli.comparison.result_cache import RESULTS_FILE, ResultCache
from graftcli.report import facts
from graftcli.report.curves import curves
from graftcli.report.page import page
from graftcli.report.run_view import RunView, load_run_view, read_bench, read_metrics, stages
from tests.reports import LADDER, RECORDS, folder_of_run, tiny_facts

DELETED = object()
DEEP: Any = []
for _ in range(60):
    DEEP = [DEEP]
VALUES: tuple[Any, ...] = (
    *(DELETED, None, True, False, -1, 0, 10**30, 1e308, float("nan"), float("inf"), 0.5),
    *("", "x" * 300, "\x00\x1b[2J\n", "<script>", "\ud800", [], [[]], DEEP, {}, {"a": {"b": []}}, [None, 1]),
)


def places(document: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each part of a document, itself first."""
    yield path
    if isinstance(document, dict | list):
        for key, value in document.items() if isinstance(document, dict) else enumerate(document):
            yield from places(value, (*path, key))


def changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of the document with another value at one place, or without it."""
    if not path:
        return None if value is DELETED else value
    copied = copy.deepcopy(document)
    here = copied
    for key in path[:-1]:
        here = here[key]
    if value is DELETED:
        del here[path[-1]]
    else:
        here[path[-1]] = value
    return copied


def variants(document: object) -> Iterator[str]:
    """Texts of documents in which one place is something else, and texts that are no document."""
    for path in places(document):
        for value in VALUES:
            yield json.dumps(changed(document, path, value))
    text = json.dumps(document)
    yield from ("", "{", "[" * 100_000, "nul", text[: len(text) // 2], text + text, "9" * 10_000, "\ufeff" + text)


class Reader:
    """One page for all variants: only what a reader gives is drawn, and only when it differs."""

    def __init__(self, folder: Path) -> None:
        self.run, self.drawn = load_run_view(folder, tiny_facts()), set[str]()

    def draw(self, change: Callable[[RunView], RunView], mark: str) -> None:
        if mark not in self.drawn and len(self.drawn) < 60:
            self.drawn.add(mark)
            page([change(self.run)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return folder_of_run(tmp_path / "run", ladder=LADDER)


def test_report_json(folder: Path) -> None:
    facts.write(folder, tiny_facts())
    file, reader = folder / "report.json", Reader(folder)
    assert facts.read(folder) is not None
    for text in variants(json.loads(file.read_text())):
        file.write_text(text, encoding="utf-8", errors="surrogatepass")
        warnings: list[str] = []
        found = facts.read(folder, warnings.append)
        assert (found is None) == (len(warnings) == 1), text[:200]
        if found is not None:
            reader.draw(lambda run, found=found: replace(run, facts=found), repr(found))  # type: ignore[misc]


def test_bench_json(folder: Path) -> None:
    file, reader = folder / "bench.json", Reader(folder)
    for text in variants(json.loads(file.read_text())):
        file.write_text(text, encoding="utf-8", errors="surrogatepass")
        warnings: list[str] = []
        found = read_bench(file, warnings.append)
        assert len(warnings) <= 1 and not (found and warnings), text[:200]
        reader.draw(lambda run, found=found: replace(run, bench=found), repr(found))  # type: ignore[misc]


def test_metrics_jsonl(folder: Path) -> None:
    file, reader = folder / "metrics.jsonl", Reader(folder)
    whole = "".join(f"{json.dumps(record)}\n" for record in RECORDS)
    for text in variants(RECORDS[1]):
        file.write_text(whole + text + "\n" + whole, encoding="utf-8", errors="surrogatepass")
        warnings: list[str] = []
        found = stages(read_metrics(file, warnings.append), ["graft", "finish"])
        assert [stage.name for stage in found] == ["graft", "finish"] and len(warnings) <= 1, text[:200]
        for index, stage in enumerate(found):
            if repr(stage) not in reader.drawn and len(reader.drawn) < 60:
                curves(stage, f"p{index}")
        reader.draw(lambda run, found=found: replace(run, stages=found), repr(found))  # type: ignore[misc]


def test_cells_json(tmp_path: Path) -> None:
    cache = ResultCache(tmp_path)
    assert cache.get_or_compute("scores", ["a", 1], lambda: {"accuracy": 0.5, "agreement": [0.25, None]}) is not None
    assert cache.get_or_compute("paces", ["b"], lambda: 3) == 3
    file = tmp_path / RESULTS_FILE
    whole = json.loads(file.read_text())
    for text in variants(whole):
        file.write_text(text, encoding="utf-8", errors="surrogatepass")
        warnings: list[str] = []
        cache = ResultCache(tmp_path, warnings.append)
        for kind, depends_on, value in (
            ("scores", ["a", 1], {"accuracy": 0.5, "agreement": [0.25, None]}),
            ("paces", ["b"], 3),
        ):
            assert cache.get_or_compute(kind, depends_on, lambda value=value: value) == value, text[:200]  # type: ignore[misc]
    file.write_text(json.dumps(whole))
    assert ResultCache(tmp_path).get_or_compute("paces", ["b"], lambda: 4) == 3


def test_a_folder_in_the_place_of_a_file_is_ignored_too(tmp_path: Path) -> None:
    for name in ("report.json", "bench.json", "metrics.jsonl", RESULTS_FILE):
        (tmp_path / name).mkdir()
    warnings: list[str] = []
    assert facts.read(tmp_path, warnings.append) is None
    assert read_bench(tmp_path / "bench.json", warnings.append) == ()
    assert read_metrics(tmp_path / "metrics.jsonl", warnings.append) == []
    assert not ResultCache(tmp_path, warnings.append).has("cells", 1)
    assert len(warnings) == 4 and all("is ignored" in text for text in warnings)


def test_a_warning_names_the_file_the_field_and_what_was_found(folder: Path) -> None:
    facts.write(folder, tiny_facts())
    document = json.loads((folder / "report.json").read_text())
    document["plan"]["blocks"][1]["student"]["params"] = "many"
    (folder / "report.json").write_text(json.dumps(document))
    warnings: list[str] = []
    facts.read(folder, warnings.append)
    (text,) = warnings
    assert "report.json" in text and "`plan.blocks.1.student.params`" in text and "'many'" in text
