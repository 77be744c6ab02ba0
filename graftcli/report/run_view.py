"""Read the content of a run's page from its folder: run.json, metrics.jsonl, bench.json, report.json."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from graftcli.report.documents import Amount, Loss, Share, Text, Warn, Whole, load, silent
from graftcli.report.facts import Facts
from graftcli.store import BENCH_FILE, METRICS_FILE
from graftcli.store.run_file import read_record
from graftcli.store.run_record import RunRecord, RunResult, RunSettings, Session

Batch = Annotated[str, Field(pattern=r"\A[0-9]{1,9}\z")]  # batch size


@dataclass(frozen=True)
class TaskView:
    """One unit of a stage: its losses and agreement so far."""

    name: str
    blocks: tuple[int, ...]
    losses: tuple[tuple[int, float], ...]  # (step, loss), ascending
    agreement: float | None
    before: float | None = None  # agreement on the same views before training
    after: float | None = None  # agreement after training, if the weight change is not kept completely
    fraction: float = 1.0  # of the weight change that is kept

    @property
    def steps(self) -> int:
        """The last recorded step."""
        return self.losses[-1][0]

    @property
    def loss(self) -> float:
        """The last recorded loss."""
        return self.losses[-1][1]


@dataclass(frozen=True)
class StageView:
    """One stage of the recipe, and its units so far."""

    name: str
    units: tuple[TaskView, ...]


@dataclass(frozen=True)
class LatencyView:
    """Latency in milliseconds."""

    median: Amount
    p95: Amount


@dataclass(frozen=True)
class BenchView:
    """One network in one format and precision, with its measurements; None: not measured."""

    name: Text
    format: Text
    precision: Text
    bytes: Whole
    params: Whole | None = None
    macs: Whole | None = None
    latency_ms: dict[Batch, LatencyView] = field(default_factory=dict)
    images_per_second: Amount | None = None
    ratio: Amount | None = None  # speed-up over the first entry
    agreement: Share | None = None  # with the first entry
    top1: Share | None = None
    images: Whole = 0  # number of images for agreement and top-1
    threads: Whole | None = None


@dataclass(frozen=True)
class RunView:
    """Everything that the page of a run shows."""

    folder: Path
    run: RunRecord
    stages: tuple[StageView, ...]
    bench: tuple[BenchView, ...]
    facts: Facts | None
    warnings: tuple[str, ...]

    @property
    def result(self) -> RunResult | None:
        """The result; None while the run is not finished."""
        return self.run.result

    @property
    def settings(self) -> RunSettings:
        """Everything that determined the result."""
        return self.run.settings

    @property
    def session(self) -> Session:
        """The last session of the run."""
        return self.run.session

    @property
    def student_bench(self) -> BenchView | None:
        """The first benchmark entry of the run's own student."""
        prefix = f"{self.folder.name}: "
        entries = (entry for entry in self.bench if entry.name.endswith("(student)") or entry.name.startswith(prefix))
        return next(entries, None)

    def name(self, role: str) -> str:
        """The network's name, or the spec from the command if teacher and student have the same name."""
        names = {"teacher": self.settings.teacher.name, "student": self.settings.student.name}
        networks = self.session.config.get("networks")
        spec = networks.get(role) if isinstance(networks, dict) else None
        if len(set(names.values())) == 1 and spec:
            path, bracket, arguments = str(spec).partition("(")
            return f"{path.rsplit('/', 1)[-1]}{bracket}{arguments}"
        return names[role]


def load_run_view(folder: Path, facts: Facts | None, warnings: Iterable[str] = ()) -> RunView:
    """Read a run's folder; `warnings` about the report itself are shown with those of the run."""
    run = read_record(folder)
    names = [stage.name for stage in run.settings.recipe.stages]
    run_warnings = [text for session in run.sessions for text in session.warnings]
    notes = facts.plan["notes"] if facts else []
    unfinished = (
        [] if run.status == "finished" else ["this run is not finished: run the same command again to resume it"]
    )
    ignored: list[str] = []
    return RunView(
        folder=folder,
        run=run,
        stages=stages(read_metrics(folder / METRICS_FILE, ignored.append), names),
        bench=read_bench(folder / BENCH_FILE, ignored.append),
        facts=facts,
        warnings=tuple(dict.fromkeys([*unfinished, *run_warnings, *notes, *warnings, *ignored])),
    )


class MetricRecord(BaseModel):
    """The schema of a line of metrics.jsonl about a unit."""

    unit: Text
    step: Annotated[Whole, Field(le=10**12)]
    loss: Loss
    agreement: Share | None = None
    before: Share | None = None
    after: Share | None = None
    fraction: Share | None = None


def stages(records: Iterable[MetricRecord], names: Iterable[str]) -> tuple[StageView, ...]:
    """Group records by stage and unit; `names` are the recipe's stages. Units are in order of training."""
    longest_first = sorted(names, key=len, reverse=True)
    by_unit: dict[str, list[MetricRecord]] = {}
    for record in records:
        by_unit.setdefault(record.unit, []).append(record)
    stage_of = {unit: next((n for n in longest_first if _is_unit(unit, n)), None) for unit in by_unit}
    return tuple(
        StageView(name, tuple(_unit(unit, name, lines) for unit, lines in by_unit.items() if stage_of[unit] == name))
        for name in dict.fromkeys(stage_of.values())
        if name is not None
    )


def _is_unit(unit: str, stage: str) -> bool:
    """Whether a unit's name is the stage's name followed by block numbers."""
    return re.fullmatch(rf"{re.escape(stage)}(-[0-9]{{1,6}})+", unit) is not None


def _unit(name: str, stage: str, records: Iterable[MetricRecord]) -> TaskView:
    """The view of a unit; a step recorded again after an interruption counts once."""
    losses, scores = {}, dict[str, float]()
    for record in records:
        losses[record.step] = record.loss
        scores |= record.model_dump(include={"agreement", "before", "after", "fraction"}, exclude_none=True)
    blocks = tuple(int(part) for part in name.removeprefix(stage).split("-")[1:])
    agreement, before, after = (scores.get(key) for key in ("agreement", "before", "after"))
    return TaskView(name, blocks, tuple(sorted(losses.items())), agreement, before, after, scores.get("fraction", 1.0))


def read_metrics(path: Path, warn: Warn = silent) -> list[MetricRecord]:
    """The records with a unit's loss in metrics.jsonl; an incomplete last line is ignored (a run may be writing it)."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as fault:
        warn(f"`{path}` is ignored: it cannot be read ({fault.strerror or fault})")
        return []
    *lines, last_line = text.split("\n")
    parsed = [_record(line) for line in lines if line.strip()]
    if damaged := sum(isinstance(record, ValidationError) for record in parsed):
        count = f"{damaged:,} line{'s' * (damaged > 1)}"
        warn(f"{count} of `{path}` {'are' if damaged > 1 else 'is'} ignored: damaged or edited")
    return [record for record in [*parsed, _record(last_line)] if isinstance(record, MetricRecord)]


def _record(line: str) -> MetricRecord | ValidationError | None:
    """The record in a line; None if it is not about a unit or has no finite loss."""
    try:
        return MetricRecord.model_validate_json(line, strict=True)
    except ValidationError as fault:
        expected = (
            [("unit",), "missing"],
            [("loss",), "float_type"],
        )  # not a record of a unit, or the loss was not finite
        absent = [
            [error["loc"], error["type"]]
            for error in fault.errors()
            if error["type"] == "missing" or error["input"] is None
        ]
        return None if any(error in absent for error in expected) else fault


def read_bench(path: Path, warn: Warn = silent) -> tuple[BenchView, ...]:
    """The entries that `graftcli bench` wrote; empty if the file is absent or cannot be used."""
    return load(path, _BENCH, warn) or ()


_BENCH = TypeAdapter(tuple[BenchView, ...])
