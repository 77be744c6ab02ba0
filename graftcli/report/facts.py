"""What a report shows that a run's folder does not hold otherwise: report.json, which needs no network to be read."""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from graftcli.nets import plan as plans
from graftcli.nets.plan import Plan
from graftcli.report.disagreement import Compared
from graftcli.store import REPORT_FACTS_FILE
from graftcli.store.written import write_json

_FORMAT = 1


@dataclass(frozen=True)
class Facts:
    plan: dict[str, Any]  # as `graftcli plan --json` tells it
    cuts: tuple[tuple[str, str], ...]  # behind which modules of teacher and student
    channels: tuple[tuple[int, int], ...]  # of teacher and student at each cut
    compared: Compared | None  # None where the networks could not be asked


def gather(plan: Plan, compared: Compared | None) -> Facts:
    """What there is to tell of the plan, and how the networks answered."""
    pairs = list(zip(plan.teacher.cuts, plan.student.cuts, strict=True))
    return Facts(
        plan=plans.as_json(plan),
        cuts=tuple((ours.name, theirs.name) for ours, theirs in pairs),
        channels=tuple((ours.channels, theirs.channels) for ours, theirs in pairs),
        compared=compared,
    )


def write(folder: Path, facts: Facts) -> None:
    write_json(folder / REPORT_FACTS_FILE, {"format": _FORMAT, **asdict(facts)})


def read(folder: Path) -> Facts | None:
    """What the folder keeps; None where it is not there, or not what this graftcli writes: it can be made again."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        document = json.loads((folder / REPORT_FACTS_FILE).read_text(encoding="utf-8"))
        if document.pop("format") == _FORMAT:
            return TypeAdapter(Facts).validate_python(document)
    return None
