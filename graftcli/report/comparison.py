"""What a comparison found: its cells as facts, and one table of them in the form of the paper's, in Markdown too."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from graftcli import formatting
from graftcli.report.format import human


@dataclass(frozen=True)
class CellScore:
    """One cell: a method on one draw. What was not measured, or has not come out yet, is None."""

    name: str
    folder: str
    method: str
    student: str
    blocks: str | None
    shots: int
    draw: int
    seed: int
    images: int | None = None
    steps: int | None = None
    params: int | None = None
    macs: int | None = None
    accuracy: float | None = None
    agreement: float | None = None
    seconds: float | None = None
    peak_memory: int | None = None
    fault: str | None = None  # why nothing came out

    @property
    def is_done(self) -> bool:
        return self.seconds is not None


@dataclass(frozen=True)
class Spread:
    mean: float
    sd: float | None  # of the sample; None for a single draw
    each: tuple[float, ...]


@dataclass(frozen=True)
class MethodLine:
    """A method with one number of shots, over its draws."""

    method: str
    student: str
    blocks: str | None
    shots: int
    draws: int  # that are done
    of: int
    steps: int | None
    params: tuple[int, ...]  # as many as differ between the draws, rising
    macs: tuple[int, ...]
    accuracy: Spread | None
    agreement: Spread | None
    seconds: Spread | None
    peak_memory: int | None  # the most
    faults: tuple[str, ...]


@dataclass(frozen=True)
class TeacherScore:
    """The teacher, which all are measured by."""

    name: str
    params: int
    macs: int
    accuracy: float | None


@dataclass(frozen=True)
class Comparison:
    folder: str
    teacher: TeacherScore
    shots: str  # what a shot is
    budget: str
    scored: str  # on what accuracy and agreement were measured
    machine: str
    command: str
    notes: tuple[str, ...]
    lines: tuple[MethodLine, ...]
    trials: tuple[CellScore, ...]

    @property
    def is_whole(self) -> bool:
        return all(trial.is_done for trial in self.trials)


def lines(trials: Sequence[CellScore]) -> tuple[MethodLine, ...]:
    """One for each method, student and block, with each number of shots, in the order of the trials' first draw."""
    found: dict[tuple[object, ...], list[CellScore]] = {}
    for trial in trials:
        found.setdefault((trial.student, trial.method, trial.blocks, trial.shots), []).append(trial)
    methods = list(dict.fromkeys(key[:3] for key in found))
    return tuple(_line(found[key]) for key in sorted(found, key=lambda key: methods.index(key[:3])))


def _line(trials: Sequence[CellScore]) -> MethodLine:
    first, done = trials[0], [trial for trial in trials if trial.is_done]
    return MethodLine(
        method=first.method,
        student=first.student,
        blocks=first.blocks,
        shots=first.shots,
        draws=len(done),
        of=len(trials),
        steps=_one(trial.steps for trial in done),
        params=_several(trial.params for trial in done),
        macs=_several(trial.macs for trial in done),
        accuracy=spread(trial.accuracy for trial in done),
        agreement=spread(trial.agreement for trial in done),
        seconds=spread(trial.seconds for trial in done),
        peak_memory=max((trial.peak_memory or 0 for trial in done), default=None),
        faults=tuple(dict.fromkeys(trial.fault for trial in trials if trial.fault)),
    )


def _one(values: Iterable[int | None]) -> int | None:
    """The first that is known: draws differ by images alone."""
    return next((value for value in values if value is not None), None)


def _several(values: Iterable[int | None]) -> tuple[int, ...]:
    """What a student is made of its own draw's images differs in size."""
    return tuple(sorted({value for value in values if value is not None}))


def spread(values: Iterable[float | None]) -> Spread | None:
    found = tuple(value for value in values if value is not None)
    return Spread(mean(found), stdev(found) if len(found) > 1 else None, found) if found else None


# -- the table ----------------------------------------------------------------------------------------------------


def share(found: Spread | None) -> str:
    """87.74 ± 0.31, in percent."""
    if found is None:
        return ""
    return f"{100 * found.mean:.2f}" + (f" ± {100 * found.sd:.2f}" if found.sd is not None else "")


def _seconds(line: MethodLine) -> str:
    return "" if line.seconds is None else f"{line.seconds.mean:,.0f}"


def _span(sizes: Sequence[int]) -> str:
    """269.7 k, or 250.3 k to 269.7 k."""
    return " to ".join(dict.fromkeys(human(size) for size in (sizes[0], sizes[-1]))) if sizes else ""


_COLUMNS: dict[str, Callable[[MethodLine], str]] = {
    "method": lambda line: line.method,
    "student": lambda line: line.student,
    "blocks": lambda line: line.blocks or "",
    "shots": lambda line: f"{line.shots:,}",
    "parameters": lambda line: _span(line.params),
    "MACs": lambda line: _span(line.macs),
    "accuracy": lambda line: share(line.accuracy),
    "agreement": lambda line: share(line.agreement),
    "steps": lambda line: "" if line.steps is None else f"{line.steps:,}",
    "seconds": _seconds,
    "memory": lambda line: "" if line.peak_memory is None else human(line.peak_memory, "B"),
    "draws": lambda line: f"{line.draws} of {line.of}" if line.draws < line.of else f"{line.draws}",
}
TEXTS = ("method", "student", "blocks")  # the columns that hold no numbers


def columns(found: Comparison) -> dict[str, list[str]]:
    """The table by its columns; the teacher's is the first line. A student that all share needs no column."""
    teacher = found.teacher
    first = {
        "method": f"{teacher.name} (teacher)",
        "parameters": human(teacher.params),
        "MACs": human(teacher.macs),
        "accuracy": "" if teacher.accuracy is None else f"{100 * teacher.accuracy:.2f}",
    }
    whole = {title: [first.get(title, ""), *(cell(line) for line in found.lines)] for title, cell in _COLUMNS.items()}
    alone = len({line.student for line in found.lines}) == 1
    return {title: cells for title, cells in whole.items() if any(cells) and not (title == "student" and alone)}


def said(found: Comparison) -> tuple[str, ...]:
    """What has to be known to read the table."""
    students = dict.fromkeys(line.student for line in found.lines)
    done = sum(trial.is_done for trial in found.trials)
    unfinished = f"; {done} of {len(found.trials)} cells are done" if not found.is_whole else ""
    faults = [
        f"{line.method}, {line.student}, {line.shots} shots: {fault}" for line in found.lines for fault in line.faults
    ]
    return (
        f"{found.teacher.name} -> {', '.join(students)}{unfinished}",
        f"shots: {found.shots}",
        f"budget: {found.budget}",
        found.scored,
        f"machine: {found.machine}",
        *found.notes,
        *faults,
    )


def markdown(found: Comparison) -> str:
    """The table, what has to be known to read it, and the command."""
    table = columns(found)
    head = f"| {' | '.join(table)} |"
    rule = f"| {' | '.join('---' if title in TEXTS else '---:' for title in table)} |"
    rows = [f"| {' | '.join(formatting.markdown(cell) for cell in row)} |" for row in zip(*table.values(), strict=True)]
    told = [f"- {formatting.markdown(text)}" for text in said(found)]
    return "\n".join([head, rule, *rows, "", *told, "", formatting.fenced(found.command, "sh"), ""])
