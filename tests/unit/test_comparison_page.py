"""The table of a comparison: means and spreads over draws, in Markdown and as a page."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from graftcli.report.comparison import CellScore, Comparison, TeacherScore, columns, markdown, method_lines, table_notes
from graftcli.report.figures import figures
from graftcli.report.page import comparison_page
from tests.browser import opened
from tests.pages import Reader


def trial(method: str, shots: int, draw: int, accuracy: float | None = None, **more: Any) -> CellScore:
    name = f"{method}-{more.get('student', 'small')}-{shots}shot-draw{draw}"
    done: dict[str, Any] = {}
    if accuracy is not None:
        done = {"images": 10 * shots, "steps": 600, "params": 270_000, "macs": 40_600_000, "accuracy": accuracy}
        done |= {"agreement": accuracy + 0.01, "seconds": 100.0 + draw, "peak_memory": 10**9 + draw}
    return CellScore(
        name,
        f"out/cells/{name}",
        method,
        **{"student": "small", "blocks": None, **more},
        shots=shots,
        draw=draw,
        seed=draw,
        **done,
    )


TRIALS = (
    trial("graft", 1, 0, 0.50),
    trial("graft", 1, 1, 0.54),
    trial("graft", 5, 0, 0.80),
    trial("graft", 5, 1),
    trial("k|d", 1, 0, 0.20),
    trial("k|d", 1, 1, fault="the loss ran away"),
)


def comparison(trials: tuple[CellScore, ...] = TRIALS, **more: object) -> Comparison:
    facts: dict[str, Any] = {
        **{"folder": "out", "teacher": TeacherScore("big", 853_000, 125_500_000, 0.93), "shots": "images per class"},
        **{"budget": "600 s a cell", "scored": "accuracy: on 200 images", "machine": "a CPU", "notes": ()},
        **{"command": "graftcli compare --teacher big", **more},
    }
    return Comparison(**facts, lines=method_lines(trials), trials=trials)


def test_a_line_is_the_mean_and_the_samples_deviation_over_the_draws_that_are_done() -> None:
    first, second, third = method_lines(TRIALS)
    assert (first.method, first.shots, first.draws, first.of) == ("graft", 1, 2, 2)
    assert first.accuracy is not None and first.accuracy.each == (0.50, 0.54)
    assert first.accuracy.mean == pytest.approx(0.52) and first.accuracy.sd == pytest.approx(0.0282843, rel=1e-5)
    assert (first.peak_memory, first.seconds and first.seconds.mean) == (10**9 + 1, 100.5)
    assert (second.draws, second.of) == (1, 2) and second.accuracy is not None and second.accuracy.sd is None
    assert third.faults == ("the loss ran away",)


def test_the_table_begins_with_the_teacher_and_leaves_out_what_all_share() -> None:
    table = columns(comparison())
    assert "student" not in table and "blocks" not in table
    assert table["method"] == ["big (teacher)", "graft", "graft", "k|d"]
    assert table["accuracy"] == ["93.00", "52.00 ± 2.83", "80.00", "20.00"]
    assert table["draws"] == ["", "2", "1 of 2", "1 of 2"]
    two = columns(comparison((*TRIALS, trial("graft", 1, 0, student="other", blocks="3"))))
    assert two["student"][-1] == "other" and two["blocks"] == ["", "", "", "", "3"]


def test_students_of_different_sizes_are_shown_as_a_range() -> None:
    """What is dropped or pruned by the images of each draw differs in size."""
    some = [replace(trial("graft", 1, draw, 0.5), params=size) for draw, size in enumerate((270_000, 250_000, 260_000))]
    (line,) = method_lines(some)
    assert (line.params, line.macs) == ((250_000, 260_000, 270_000), (40_600_000,))
    table = columns(comparison(tuple(some)))
    assert (table["parameters"][1], table["MACs"][1]) == ("250.0 k to 270.0 k", "40.6 M")


def test_markdown_holds_the_table_what_is_to_be_known_and_the_command() -> None:
    table = markdown(comparison(notes=("left out: fskd with small: it is not derived from the teacher",)))
    rows = [row for row in table.splitlines() if row.startswith("|")]
    assert len(rows) == 2 + 4 and len({row.replace("\\|", "").count("|") for row in rows}) == 1
    for text in ("52.00 ± 2.83", "4 of 6 cells are done", "600 s a cell", "left out: fskd", "the loss ran away"):
        assert text in table
    assert "graftcli compare --teacher big" in table


def test_a_finished_table_has_no_note_about_unfinished_cells() -> None:
    whole = comparison(TRIALS[:3])
    assert whole.is_finished and "cells" not in " ".join(table_notes(whole))


def test_figures_show_accuracy_over_shots_and_seconds_and_agreement_where_there_is_none() -> None:
    found = figures(comparison())
    assert [figure.title for figure in found] == ["Accuracy over shots", "Accuracy over seconds"]
    assert found[0].names == ("graft", "k|d")
    assert "var(--c1)" in found[0].svg and "#0a0b" not in found[0].svg
    without = tuple(CellScore(**{**vars(one), "accuracy": None}) for one in TRIALS)
    assert figures(comparison(without))[0].title == "Agreement over shots"
    assert figures(comparison((TRIALS[3],))) == ()


def test_the_page_shows_every_cell_and_needs_nothing_but_itself() -> None:
    read = Reader(comparison_page(comparison()))
    assert not read.open and not read.outside and "script" not in read.tags
    assert len(read.ids) == len(set(read.ids))
    for text in ("52.00 ± 2.83", "the loss ran away", "not done", "600 s a cell", "Accuracy over seconds"):
        assert text in read.words
    leading = [link for link in read.fetched if not link.startswith(("#", "data:"))]
    assert leading == [
        f"cells/{name}/report.html"
        for name in (
            "graft-small-1shot-draw0",
            "graft-small-1shot-draw1",
            "graft-small-5shot-draw0",
            "k%7Cd-small-1shot-draw0",
        )
    ]


def test_the_page_is_safe_whatever_the_names() -> None:
    hostile = '<script>alert("x")</script>'
    page = comparison_page(comparison((trial(hostile, 1, 0, 0.5),), command=hostile))
    assert "<script>" not in page


def test_nothing_overflows_in_a_browser(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(comparison_page(comparison()), encoding="utf-8")
    measured, spoken = opened(page, tmp_path)
    assert spoken == []
    for width, found in measured.items():
        assert found["scroll"] <= int(width) and found["beyond"] == []
