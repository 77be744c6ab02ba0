"""Results of a comparison: cells, their means over draws, and a table of them, also in Markdown."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from graftcli import formatting
from graftcli.report.format import human


@dataclass(frozen=True)
class CellScore:
    """One cell: a method on one draw. Values that are not measured (yet) are None."""

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
    fault: str | None = None  # why the cell failed

    @property
    def is_done(self) -> bool:
        """Whether the cell's run has finished."""
        return self.seconds is not None


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of a metric over the draws."""

    mean: float
    sd: float | None  # sample standard deviation; None for a single draw
    each: tuple[float, ...]


@dataclass(frozen=True)
class MethodLine:
    """A method at one number of shots, aggregated over its draws."""

    method: str
    student: str
    blocks: str | None
    shots: int
    draws: int  # number of finished draws
    of: int  # number of draws in total
    steps: int | None
    params: tuple[int, ...]  # distinct values over the draws, ascending
    macs: tuple[int, ...]
    accuracy: Spread | None
    agreement: Spread | None
    seconds: Spread | None
    peak_memory: int | None  # maximum over the draws
    faults: tuple[str, ...]


@dataclass(frozen=True)
class TeacherScore:
    """The teacher, the reference of a comparison."""

    name: str
    params: int
    macs: int
    accuracy: float | None


@dataclass(frozen=True)
class Comparison:
    """All cells of a comparison, and how they were trained and scored."""

    folder: str
    teacher: TeacherScore
    shots: str  # the meaning of a shot
    budget: str
    scored: str  # the data that accuracy and agreement were measured on
    machine: str
    command: str
    notes: tuple[str, ...]
    lines: tuple[MethodLine, ...]
    trials: tuple[CellScore, ...]

    @property
    def is_finished(self) -> bool:
        """Whether every cell's run has finished."""
        return all(cell.is_done for cell in self.trials)


def method_lines(cells: Sequence[CellScore]) -> tuple[MethodLine, ...]:
    """One line per student, method, blocks and number of shots, in the order of the first cells."""
    groups: dict[tuple[object, ...], list[CellScore]] = {}
    for cell in cells:
        groups.setdefault((cell.student, cell.method, cell.blocks, cell.shots), []).append(cell)
    methods = list(dict.fromkeys(key[:3] for key in groups))
    return tuple(_line(groups[key]) for key in sorted(groups, key=lambda key: methods.index(key[:3])))


def _line(cells: Sequence[CellScore]) -> MethodLine:
    first, done = cells[0], [cell for cell in cells if cell.is_done]
    return MethodLine(
        method=first.method,
        student=first.student,
        blocks=first.blocks,
        shots=first.shots,
        draws=len(done),
        of=len(cells),
        steps=_first_known(cell.steps for cell in done),
        params=_distinct(cell.params for cell in done),
        macs=_distinct(cell.macs for cell in done),
        accuracy=_spread(cell.accuracy for cell in done),
        agreement=_spread(cell.agreement for cell in done),
        seconds=_spread(cell.seconds for cell in done),
        peak_memory=max((cell.peak_memory or 0 for cell in done), default=None),
        faults=tuple(dict.fromkeys(cell.fault for cell in cells if cell.fault)),
    )


def _first_known(values: Iterable[int | None]) -> int | None:
    """The first value that is not None; it is the same in all draws."""
    return next((value for value in values if value is not None), None)


def _distinct(values: Iterable[int | None]) -> tuple[int, ...]:
    """The distinct values, ascending: a student derived from the images of each draw differs in size."""
    return tuple(sorted({value for value in values if value is not None}))


def _spread(values: Iterable[float | None]) -> Spread | None:
    known = tuple(value for value in values if value is not None)
    return Spread(mean(known), stdev(known) if len(known) > 1 else None, known) if known else None


# -- the table ----------------------------------------------------------------------------------------------------


def _percent(spread: Spread | None) -> str:
    """Mean and standard deviation in percent: "87.74 ± 0.31"."""
    if spread is None:
        return ""
    return f"{100 * spread.mean:.2f}" + (f" ± {100 * spread.sd:.2f}" if spread.sd is not None else "")


def _seconds(line: MethodLine) -> str:
    return "" if line.seconds is None else f"{line.seconds.mean:,.0f}"


def _span(sizes: Sequence[int]) -> str:
    """One size or a range: "269.7 k", "250.3 k to 269.7 k"."""
    return " to ".join(dict.fromkeys(human(size) for size in (sizes[0], sizes[-1]))) if sizes else ""


_COLUMNS: dict[str, Callable[[MethodLine], str]] = {
    "method": lambda line: line.method,
    "student": lambda line: line.student,
    "blocks": lambda line: line.blocks or "",
    "shots": lambda line: f"{line.shots:,}",
    "parameters": lambda line: _span(line.params),
    "MACs": lambda line: _span(line.macs),
    "accuracy": lambda line: _percent(line.accuracy),
    "agreement": lambda line: _percent(line.agreement),
    "steps": lambda line: "" if line.steps is None else f"{line.steps:,}",
    "seconds": _seconds,
    "memory": lambda line: "" if line.peak_memory is None else human(line.peak_memory, "B"),
    "draws": lambda line: f"{line.draws} of {line.of}" if line.draws < line.of else f"{line.draws}",
}
TEXT_COLUMNS = ("method", "student", "blocks")


def columns(comparison: Comparison) -> dict[str, list[str]]:
    """The columns of the table, with the teacher in the first row; without empty columns or a single student's name."""
    teacher = comparison.teacher
    teacher_row = {
        "method": f"{teacher.name} (teacher)",
        "parameters": human(teacher.params),
        "MACs": human(teacher.macs),
        "accuracy": "" if teacher.accuracy is None else f"{100 * teacher.accuracy:.2f}",
    }
    table = {
        title: [teacher_row.get(title, ""), *(text(line) for line in comparison.lines)]
        for title, text in _COLUMNS.items()
    }
    one_student = len({line.student for line in comparison.lines}) == 1
    return {title: cells for title, cells in table.items() if any(cells) and not (title == "student" and one_student)}


def table_notes(comparison: Comparison) -> tuple[str, ...]:
    """The notes under the table: the networks, shots, budget, scoring, machine and failed cells."""
    students = dict.fromkeys(line.student for line in comparison.lines)
    done = sum(cell.is_done for cell in comparison.trials)
    unfinished = f"; {done} of {len(comparison.trials)} cells are done" if not comparison.is_finished else ""
    faults = [
        f"{line.method}, {line.student}, {line.shots:,} shot{'s' * (line.shots != 1)}: {fault}"
        for line in comparison.lines
        for fault in line.faults
    ]
    return (
        f"{comparison.teacher.name} -> {', '.join(students)}{unfinished}",
        f"shots: {comparison.shots}",
        f"budget: {comparison.budget}",
        comparison.scored,
        f"machine: {comparison.machine}",
        *comparison.notes,
        *faults,
    )


def markdown(comparison: Comparison) -> str:
    """The table, its notes and the command, in Markdown."""
    table = columns(comparison)
    head = f"| {' | '.join(table)} |"
    rule = f"| {' | '.join('---' if title in TEXT_COLUMNS else '---:' for title in table)} |"
    rows = [f"| {' | '.join(formatting.markdown(cell) for cell in row)} |" for row in zip(*table.values(), strict=True)]
    notes = [f"- {formatting.markdown(text)}" for text in table_notes(comparison)]
    return "\n".join([head, rule, *rows, "", *notes, "", formatting.fenced(comparison.command, "sh"), ""])
