"""Folders of runs that were not trained, for the tests of reports."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from graftcli.report import facts
from graftcli.report.disagreement import compare
from graftcli.report.facts import Facts
from graftcli.report.run_view import RunView, load_run_view
from graftcli.store import Store
from graftcli.store.run_record import Document, Session
from tests import engine
from tests.records import result as finished_result
from tests.records import settings

STAGES = [
    {"name": name, "train": train, "targets": [{"at": "logits", "loss": "kl"}], "steps": 4, "lr": 1e-3}
    for name, train in (("graft", "blocks"), ("finish", "student"))
]
RECORDS: tuple[dict[str, Any], ...] = (
    {"unit": "graft-1", "step": 2, "loss": 0.9, "agreement": None},
    {"unit": "graft-1", "step": 4, "loss": 0.1, "agreement": 0.5},
    {"unit": "graft-2", "step": 4, "loss": 0.2, "agreement": 0.75},
    {"unit": "graft-3", "step": 4, "loss": 0.3, "agreement": None},
    {"unit": "finish-1-2-3", "step": 6, "loss": 0.4, "agreement": 0.875},
)
LADDER: tuple[dict[str, Any], ...] = (
    {
        **{"name": "big (teacher)", "format": "pytorch", "precision": "fp32", "bytes": 20_000, "params": 5000},
        **{"macs": 900_000, "latency_ms": {"1": {"median": 4.0, "p95": 5.0}, "32": {"median": 40.0, "p95": 41.0}}},
        **{"images_per_second": 800.0, "ratio": 1.0, "agreement": 1.0, "top1": 0.931, "images": 90, "threads": 2},
    },
    {
        **{"name": "small (student)", "format": "onnx", "precision": "int8", "bytes": 3000},
        **{"params": None, "macs": None},
        **{"latency_ms": {"1": {"median": 1.0, "p95": 1.5}}, "images_per_second": 1000.0, "ratio": 4.0},
        **{"agreement": 0.97, "top1": 0.922},
    },
)


def folder_of_run(
    folder: Path,
    *,
    names: tuple[str, str] = ("big", "small"),
    blocks: Sequence[int] = (1, 2, 3),
    finished: bool = True,
    records: Sequence[dict[str, Any]] = RECORDS,
    ladder: Sequence[dict[str, Any]] | None = None,
    warnings: Sequence[str] = (),
    seed: int = 0,
    **result: object,
) -> Path:
    """The folder of a finished run of `engine.plan`, but without weights and report."""
    config: Document = {
        "networks": {"teacher": "nowhere.py:big", "student": "nowhere.py:small"},
        "images": "nowhere",
    }
    session = Session(
        config=config, command="graftcli distill --teacher big", versions={"torch": "2"}, warnings=tuple(warnings)
    )
    recipe = engine.recipe(stages=STAGES)
    with Store(folder, settings(names, blocks=tuple(blocks), recipe=recipe, seed=seed), session) as store:
        for record in records:
            store.metric(record)
        if finished:
            store.finish(finished_result(blocks=tuple(blocks), **result))
    if ladder is not None:
        (folder / "bench.json").write_text(json.dumps(list(ladder)))
    return folder


@cache
def tiny_facts() -> Facts:
    """The report facts of `engine.plan` for a dozen noise images."""
    plan = engine.plan()
    student = plan.student.network.module
    return facts.gather(
        plan, compare(plan.teacher.network, student, engine.images(), engine.PREPROCESS, torch.device("cpu"))
    )


def one_shown(folder: Path, **changes: Any) -> RunView:
    """The view of a finished run, ready for rendering."""
    return load_run_view(folder_of_run(folder, **changes), tiny_facts())
