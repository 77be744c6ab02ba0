"""`teacher*0.5`: keep the first channels of each layer, with one factor for all blocks or one for each."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from graftcli.students.student_kind import NUMBER, Changes, ImageLoader, StudentKind, parse_share

if TYPE_CHECKING:
    from graftcli.models.tracing.trace import Traced


@dataclass(frozen=True)
class Narrower(StudentKind):
    """A student whose blocks have a share of the teacher's channels."""

    factors: tuple[float, ...]

    examples = ("teacher*0.5", "teacher*(1,1,.5,.5)")
    about = "narrower everywhere but in its head, or per block"
    start = r"teacher\s*\*"
    rank = 1

    @classmethod
    def parse(cls, spec: str) -> Self | None:
        """Parse `teacher*FACTOR` or `teacher*(FACTOR,…)`."""
        match = re.fullmatch(rf"teacher\*(?:{NUMBER}|\(({NUMBER}(?:,{NUMBER})*)\))", spec)
        return cls(tuple(map(parse_share, (match[1] or match[2]).split(",")))) if match else None

    @property
    def suffix(self) -> str:
        """`x0.5`, or `x1-1-0.5` with one factor per block."""
        return f"x{'-'.join(f'{factor:g}' for factor in self.factors)}"

    def changes(self, traced: "Traced", images: ImageLoader | None) -> Changes:
        """Narrow each block by its factor."""
        from graftcli.students.narrowing import narrow_blocks

        return narrow_blocks(traced, self.factors)
