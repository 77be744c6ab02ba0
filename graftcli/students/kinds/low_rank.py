"""`lowrank:0.5`: factorize each convolution into two, with half of its parameters."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from graftcli.students.student_kind import NUMBER, Changes, ImageLoader, StudentKind, parse_share

if TYPE_CHECKING:
    from graftcli.models.tracing.trace import Traced


@dataclass(frozen=True)
class LowRank(StudentKind):
    """A student whose convolutions are factorized and keep `share` of their parameters."""

    share: float

    examples = ("lowrank:0.5",)
    about = "each convolution factorised into two, with half of its parameters"
    start = "lowrank:"
    rank = 3

    @classmethod
    def parse(cls, spec: str) -> Self | None:
        """Parse `lowrank:SHARE`."""
        match = re.fullmatch(rf"lowrank:{NUMBER}", spec)
        return cls(parse_share(match[1])) if match else None

    @property
    def suffix(self) -> str:
        """`lowrank-0.5`."""
        return f"lowrank-{self.share:g}"

    def changes(self, traced: "Traced", images: ImageLoader | None) -> Changes:
        """Replace each convolution that becomes smaller."""
        from graftcli.students.factorize import factorize_low_rank
        from graftcli.students.replacing import factorized

        return factorized(traced.module, factorize_low_rank(traced.module, self.share))
