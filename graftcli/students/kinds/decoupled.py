"""`decouple`: factorize each convolution into depthwise and pointwise ones."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from graftcli.students.student_kind import Changes, ImageLoader, StudentKind

if TYPE_CHECKING:
    from graftcli.models.tracing.trace import Traced


@dataclass(frozen=True)
class Decoupled(StudentKind):
    """A student whose convolutions have `pairs` depthwise filters per input channel, and a pointwise convolution."""

    pairs: int

    examples = ("decouple", "decouple:2")
    about = "each convolution split into depthwise and pointwise, with one pair or more per input channel"
    start = "decouple(:|$)"
    rank = 4

    @classmethod
    def parse(cls, spec: str) -> Self | None:
        """Parse `decouple` or `decouple:PAIRS`."""
        match = re.fullmatch(r"decouple(?::([1-9]\d*))?", spec)
        return cls(int(match[1] or 1)) if match else None

    @property
    def suffix(self) -> str:
        """`decoupled`, or `decoupled2` with two pairs."""
        return f"decoupled{self.pairs if self.pairs > 1 else ''}"

    def changes(self, traced: "Traced", images: ImageLoader | None) -> Changes:
        """Replace each convolution that becomes smaller."""
        from graftcli.students.factorize import factorize_depthwise
        from graftcli.students.replacing import factorized

        return factorized(traced.module, factorize_depthwise(traced.module, self.pairs))
