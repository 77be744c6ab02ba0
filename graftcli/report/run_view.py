"""A run's folder -> everything that its page shows: run.json, metrics.jsonl, bench.json, report.json."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from graftcli.report.documents import Amount, Loss, Share, Text, Warn, Whole, load, silent
from graftcli.report.facts import Facts
from graftcli.store import BENCH_FILE, METRICS_FILE
from graftcli.store.run_file import read_run

Batch = Annotated[str, Field(pattern=r"\A[0-9]{1,9}\z")]  # images that are computed at once


@dataclass(frozen=True)
class TaskView:
    """One unit of a stage, as far as it was trained."""

    name: str
    blocks: tuple[int, ...]
    losses: tuple[tuple[int, float], ...]  # (step, loss), in order
    agreement: float | None
    before: float | None = None  # agreement on the same views before the unit was trained
    after: float | None = None  # and after, where not all of the change is kept
    fraction: float = 1.0  # of the change, that is kept

    @property
    def steps(self) -> int:
        return self.losses[-1][0]

    @property
    def loss(self) -> float:
        return self.losses[-1][1]


@dataclass(frozen=True)
class StageView:
    name: str
    units: tuple[TaskView, ...]


@dataclass(frozen=True)
class LatencyView:
    """In milliseconds."""

    median: Amount
    p95: Amount


@dataclass(frozen=True)
class BenchView:
    """One network as it would be shipped, and what was measured of it; None: it was not."""

    name: Text
    format: Text
    precision: Text
    bytes: Whole
    params: Whole | None = None
    macs: Whole | None = None
    latency_ms: dict[Batch, LatencyView] = field(default_factory=dict)
    images_per_second: Amount | None = None
    ratio: Amount | None = None  # how many times faster than the first rung
    agreement: Share | None = None  # with the first rung
    top1: Share | None = None
    images: Whole = 0  # on which the two were measured
    threads: Whole | None = None


@dataclass(frozen=True)
class RunView:
    folder: Path
    run: dict[str, Any]
    stages: tuple[StageView, ...]
    ladder: tuple[BenchView, ...]
    facts: Facts | None
    warnings: tuple[str, ...]

    @property
    def result(self) -> dict[str, Any] | None:
        """What came out; None where the run is not finished."""
        found: dict[str, Any] | None = self.run.get("result")
        return found

    @property
    def settings(self) -> dict[str, Any]:
        found: dict[str, Any] = self.run["settings"]
        return found

    @property
    def session(self) -> dict[str, Any]:
        """The last one that worked on the run."""
        found: dict[str, Any] = self.run["sessions"][-1]
        return found

    @property
    def measured(self) -> BenchView | None:
        """The rung of what came out: the first of its run's own."""
        own = f"{self.folder.name}: "
        named = (rung for rung in self.ladder if rung.name.endswith("(student)") or rung.name.startswith(own))
        return next(named, None)

    def name(self, role: str) -> str:
        """The network's name; where teacher and student share one, what was typed for it."""
        names = {side: str(self.settings[side]["name"]) for side in ("teacher", "student")}
        typed = self.session.get("asked", {}).get("networks", {}).get(role)
        if len(set(names.values())) == 1 and typed:
            spec, bracket, words = str(typed).partition("(")
            return f"{spec.rsplit('/', 1)[-1]}{bracket}{words}"
        return names[role]


def shown(folder: Path, facts: Facts | None, told: Iterable[str] = ()) -> RunView:
    """What is in the folder and the `facts`; `told` are warnings about the report itself."""
    run = read_run(folder)
    names = [stage["name"] for stage in run["settings"]["recipe"]["stages"]]
    heard = [text for session in run["sessions"] for text in session.get("warnings", ())]
    notes = facts.plan["notes"] if facts else []
    unfinished = [] if run["status"] == "finished" else ["this run is not finished: the same command goes on with it"]
    ignored: list[str] = []
    return RunView(
        folder=folder,
        run=run,
        stages=stages(records(folder / METRICS_FILE, ignored.append), names),
        ladder=ladder(folder / BENCH_FILE, ignored.append),
        facts=facts,
        warnings=tuple(dict.fromkeys([*unfinished, *heard, *notes, *told, *ignored])),
    )


def stages(records: Iterable[Mapping[str, Any]], names: Iterable[str]) -> tuple[StageView, ...]:
    """The recipe's stages that have been trained, each with its units in the order of their training."""
    longest_first = sorted(names, key=len, reverse=True)
    by_unit: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        by_unit.setdefault(record["unit"], []).append(record)
    owner = {unit: next((n for n in longest_first if _is_unit(unit, n)), None) for unit in by_unit}
    return tuple(
        StageView(name, tuple(_unit(unit, name, found) for unit, found in by_unit.items() if owner[unit] == name))
        for name in dict.fromkeys(owner.values())
        if name is not None
    )


def _is_unit(unit: str, stage: str) -> bool:
    """Whether a unit's name is that of the stage with the numbers of its blocks."""
    return re.fullmatch(rf"{re.escape(stage)}(-[0-9]{{1,6}})+", unit) is not None


def _unit(name: str, stage: str, records: Iterable[Mapping[str, Any]]) -> TaskView:
    """A step that was recorded twice, before an interruption and after it, counts once."""
    losses, scores = {}, dict[str, float]()
    for record in records:
        losses[int(record["step"])] = float(record["loss"])
        scores |= {
            key: record[key] for key in ("agreement", "before", "after", "fraction") if record.get(key) is not None
        }
    blocks = tuple(int(part) for part in name.removeprefix(stage).split("-")[1:])
    agreement, before, after = (scores.get(key) for key in ("agreement", "before", "after"))
    return TaskView(name, blocks, tuple(sorted(losses.items())), agreement, before, after, scores.get("fraction", 1.0))


class _Record(BaseModel):
    """A line of metrics.jsonl about a unit."""

    unit: Text
    step: Annotated[Whole, Field(le=10**12)]
    loss: Loss
    agreement: Share | None = None
    before: Share | None = None
    after: Share | None = None
    fraction: Share | None = None


def records(path: Path, warn: Warn = silent) -> list[dict[str, Any]]:
    """The lines that are whole and hold a unit's loss: a run that is under way may be writing one."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as fault:
        warn(f"`{path}` is ignored: it cannot be read: {fault.strerror or fault}")
        return []
    *whole, torn = text.split("\n")
    read = [_record(line) for line in whole if line.strip()]
    if damaged := sum(isinstance(one, ValidationError) for one in read):
        lines = f"{damaged:,} line{'s' * (damaged > 1)}"
        warn(f"{lines} of `{path}` {'are' if damaged > 1 else 'is'} ignored, because of damage or changes")
    return [one for one in [*read, _record(torn)] if isinstance(one, dict)]


def _record(line: str) -> dict[str, Any] | ValidationError | None:
    """The record of a line; None where it is one without a loss, as a record of something else is."""
    try:
        return _RECORD.validate_json(line, strict=True).model_dump()
    except ValidationError as fault:
        without = [("unit",), "missing"], [("loss",), "float_type"]  # another record, a loss that was not finite
        lacks = [
            [one["loc"], one["type"]] for one in fault.errors() if one["type"] == "missing" or one["input"] is None
        ]
        return None if any(one in lacks for one in without) else fault


def ladder(path: Path, warn: Warn = silent) -> tuple[BenchView, ...]:
    """The rungs that `graftcli bench` left; none where there is no such file, or another document in it."""
    return load(path, _LADDER, warn) or ()


_RECORD, _LADDER = TypeAdapter(_Record), TypeAdapter(tuple[BenchView, ...])
