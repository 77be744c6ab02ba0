"""The view of a run, from a complete or an incomplete folder."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from graftcli.report.run_view import MetricRecord, load_run_view, read_bench, stages
from tests.reports import LADDER, folder_of_run, tiny_facts


def record(unit: str, step: int, loss: float, agreement: float | None = None) -> MetricRecord:
    return MetricRecord(unit=unit, step=step, loss=loss, agreement=agreement)


def test_units_are_grouped_by_the_stages_of_the_recipe_in_the_order_of_training() -> None:
    records = [record("b-2", 1, 1.0), record("b-2-1", 1, 1.0), record("a-1-2", 1, 1.0), record("b-2-3", 1, 1.0)]
    found = stages(records, ["a", "b", "b-2"])
    assert [(stage.name, [unit.blocks for unit in stage.units]) for stage in found] == [
        ("b", [(2,)]),
        ("b-2", [(1,), (3,)]),
        ("a", [(1, 2)]),
    ]


def test_a_step_recorded_twice_counts_once_and_the_last_agreement_stays() -> None:
    records = [record("a-1", 5, 3.0), record("a-1", 10, 2.0, 0.5), record("a-1", 5, 2.5), record("a-1", 10, 1.0)]
    (unit,) = stages(records, ["a"])[0].units
    assert (unit.losses, unit.agreement) == (((5, 2.5), (10, 1.0)), 0.5)
    assert (unit.steps, unit.loss) == (10, 1.0)


def test_torn_lines_and_lines_without_loss_are_skipped(tmp_path: Path) -> None:
    folder = folder_of_run(tmp_path, records=[record("graft-1", 4, 0.5).model_dump()])
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"unit": "graft-1", "step": 5, "loss": null}\n[1]\n{"unit": "graft-1", "st')
    (stage,) = load_run_view(folder, None).stages
    assert stage.units[0].losses == ((4, 0.5),)


def test_every_warning_of_every_session_is_shown_once(tmp_path: Path) -> None:
    folder = folder_of_run(tmp_path, warnings=["left out: a.png", "left out: b.png"], finished=False)
    folder_of_run(tmp_path, warnings=["left out: a.png", "the loss ran away"])
    assert load_run_view(folder, None, ["no pictures"]).warnings == (
        "left out: a.png",
        "left out: b.png",
        "the loss ran away",
        "no pictures",
    )


def test_a_run_that_is_not_finished_says_so(tmp_path: Path) -> None:
    found = load_run_view(folder_of_run(tmp_path, finished=False), tiny_facts())
    assert found.result is None and "not finished" in found.warnings[0]


@pytest.mark.parametrize("text", ["", "{", "3", "null", '["x"]', '{"rungs": 5}', '[{"bytes": 1}]'])
def test_an_unreadable_bench_json_is_ignored(tmp_path: Path, text: str) -> None:
    (tmp_path / "bench.json").write_text(text)
    assert read_bench(tmp_path / "bench.json") == ()
    assert read_bench(tmp_path / "nothing.json") == ()


def test_a_document_that_is_ignored_is_a_warning_of_the_page(tmp_path: Path) -> None:
    folder = folder_of_run(tmp_path, ladder=[{**LADDER[0], "bytes": "many"}])
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"unit": "graft-1", "step": "x", "loss": 1}\n')
    ladder_text, metrics_text = sorted(load_run_view(folder, None).warnings, key=lambda text: "metrics" in text)
    assert "bench.json" in ladder_text and "`0.bytes`" in ladder_text
    assert metrics_text.startswith("1 line of ") and "is ignored" in metrics_text


def test_bench_json_is_read_as_written(tmp_path: Path) -> None:
    (tmp_path / "bench.json").write_text(json.dumps([{**rung, "more": 1} for rung in LADDER]))
    first, second = read_bench(tmp_path / "bench.json")
    assert (first.name, first.latency_ms["32"].p95, first.images, first.threads) == ("big (teacher)", 41.0, 90, 2)
    assert (second.macs, second.ratio, second.top1) == (None, 4.0, 0.922)


def test_networks_of_one_name_are_shown_by_their_specs(tmp_path: Path) -> None:
    folder = folder_of_run(tmp_path, names=("resnet", "resnet"))
    found = load_run_view(folder, None)
    networks = {"teacher": "a/nets.py:resnet(56, 'b/c')", "student": "resnet18"}
    found = replace(found, run=found.run.with_session(config={"networks": networks}))
    assert (found.name("teacher"), found.name("student")) == ("nets.py:resnet(56, 'b/c')", "resnet18")
