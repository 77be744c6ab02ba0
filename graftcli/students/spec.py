"""Parse the specs of students that are derived from the teacher, which files of `students/kinds` add."""

import re

from graftcli.errors import UsageError
from graftcli.folders import modules_in
from graftcli.students import kinds
from graftcli.students.student_kind import SpecFault, StudentKind


def _kinds() -> list[type[StudentKind]]:
    """Return the kinds that the modules of `students/kinds` define, in the order of messages."""
    defined = [(module.__name__, value) for module in modules_in(kinds) for value in vars(module).values()]
    found = [
        value
        for name, value in defined
        if isinstance(value, type) and issubclass(value, StudentKind) and value.__module__ == name
    ]
    return sorted(found, key=lambda kind: kind.rank)


KINDS = tuple(_kinds())
EXAMPLES = tuple(example for kind in KINDS for example in kind.examples)

_FIX = f"Specs of derived students: {', '.join(EXAMPLES)}."


def is_derived_spec(text: str) -> bool:
    """Whether a spec has the form of a derived student, valid or not."""
    return _kind_of(text) is not None


def parse_spec(text: str) -> StudentKind:
    """Parse a spec; raises UsageError if it is not valid."""
    kind = _kind_of(text)
    try:
        student = kind.parse(re.sub(r"\s", "", text)) if kind else None
    except SpecFault as fault:
        raise UsageError(f"`{text}`: {fault}", fault.fix or _FIX) from fault
    if student is None:
        raise UsageError(f"`{text}` is not a spec of a derived student.", _FIX)
    return student


def _kind_of(text: str) -> type[StudentKind] | None:
    return next((kind for kind in KINDS if re.match(kind.start, text)), None)
