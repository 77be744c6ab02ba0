"""Parse the specs of students that are derived from the teacher; `KINDS` lists the kinds."""

import re

from graftcli.errors import UsageError
from graftcli.students.kinds import KINDS
from graftcli.students.student_kind import SpecFault, StudentKind

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
