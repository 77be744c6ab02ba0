"""A run's folder -> everything that its page shows: run.json, metrics.jsonl, bench.json, report.json."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from graftcli.report.facts import Facts
from graftcli.store import BENCH_FILE, METRICS_FILE
from graftcli.store.runs import read_run


@dataclass(frozen=True)
class Unit:
    """One unit of a stage, as far as it was trained."""

    name: str
    blocks: tuple[int, ...]
    losses: tuple[tuple[int, float], ...]  # (step, loss), in order
    agreement: float | None

    @property
    def steps(self) -> int:
        return self.losses[-1][0]

    @property
    def loss(self) -> float:
        return self.losses[-1][1]


@dataclass(frozen=True)
class Stage:
    name: str
    units: tuple[Unit, ...]


@dataclass(frozen=True)
class Latency:
    """In milliseconds."""

    median: float
    p95: float


@dataclass(frozen=True)
class Rung:
    """One network as it would be shipped, and what was measured of it; None: it was not."""

    name: str
    format: str
    precision: str
    bytes: int
    params: int | None = None
    macs: int | None = None
    latency_ms: dict[str, Latency] = field(default_factory=dict)  # by the batch
    images_per_second: float | None = None
    ratio: float | None = None  # how many times faster than the first rung
    agreement: float | None = None  # with the first rung
    top1: float | None = None
    images: int = 0  # on which the two were measured
    threads: int | None = None


@dataclass(frozen=True)
class Shown:
    folder: Path
    run: dict[str, Any]
    stages: tuple[Stage, ...]
    ladder: tuple[Rung, ...]
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
    def measured(self) -> Rung | None:
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


def shown(folder: Path, facts: Facts | None, told: Iterable[str] = ()) -> Shown:
    """What the folder and the `facts` say; `told` are warnings about the report itself."""
    run = read_run(folder)
    names = [stage["name"] for stage in run["settings"]["recipe"]["stages"]]
    heard = [text for session in run["sessions"] for text in session.get("warnings", ())]
    notes = facts.plan["notes"] if facts else []
    unfinished = [] if run["status"] == "finished" else ["this run is not finished: the same command goes on with it"]
    return Shown(
        folder=folder,
        run=run,
        stages=stages(records(folder / METRICS_FILE), names),
        ladder=ladder(folder / BENCH_FILE),
        facts=facts,
        warnings=tuple(dict.fromkeys([*unfinished, *heard, *notes, *told])),
    )


def stages(records: Iterable[Mapping[str, Any]], names: Iterable[str]) -> tuple[Stage, ...]:
    """The recipe's stages that have been trained, each with its units in the order of their training."""
    by_unit: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        by_unit.setdefault(record["unit"], []).append(record)
    longest_first = sorted(names, key=len, reverse=True)
    owner = {unit: next((n for n in longest_first if unit.startswith(f"{n}-")), unit) for unit in by_unit}
    return tuple(
        Stage(name, tuple(_unit(unit, name, found) for unit, found in by_unit.items() if owner[unit] == name))
        for name in dict.fromkeys(owner.values())
    )


def _unit(name: str, stage: str, records: Iterable[Mapping[str, Any]]) -> Unit:
    """A step that was told twice, before an interruption and after it, counts once."""
    losses, agreement = {}, None
    for record in records:
        losses[int(record["step"])] = float(record["loss"])
        agreement = record.get("agreement") if record.get("agreement") is not None else agreement
    blocks = tuple(int(part) for part in name.removeprefix(stage).split("-") if part.isdigit())
    return Unit(name, blocks, tuple(sorted(losses.items())), agreement)


def records(path: Path) -> list[dict[str, Any]]:
    """The lines that are whole and tell of a unit's loss: a run that is under way may be writing one."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and {"unit", "step"} <= record.keys() and record.get("loss") is not None:
            found.append(record)
    return found


def ladder(path: Path) -> tuple[Rung, ...]:
    """The rungs that `graftcli bench` left; none where there is no such file, or something else in it."""
    try:
        return TypeAdapter(tuple[Rung, ...]).validate_json(path.read_bytes())
    except (OSError, ValueError):
        return ()
