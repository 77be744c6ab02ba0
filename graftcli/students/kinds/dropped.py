"""`drop:layer3.3` and `drop:auto=2`: replace residual units by identities."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from graftcli.errors import UsageError
from graftcli.students.student_kind import Changes, ImageLoader, StudentKind

if TYPE_CHECKING:
    from graftcli.models.tracing.trace import Traced

_MAX_NAMED = 4  # dropped units listed in the name of a student
_MAX_RANKING_IMAGES = 32  # images for ranking units; the network runs once per candidate unit


@dataclass(frozen=True)
class Dropped(StudentKind):
    """A student without some residual units, given by name or by the number of units to choose."""

    units: tuple[str, ...]
    count: int = 0

    examples = ("drop:layer3.3,layer3.4", "drop:auto=2")
    about = "without these residual blocks, or those that matter least"
    start = "drop:"
    rank = 5

    @classmethod
    def parse(cls, spec: str) -> Self | None:
        """Parse `drop:auto=COUNT` or `drop:UNIT,…`."""
        if match := re.fullmatch(r"drop:auto=([1-9]\d*)", spec):
            return cls((), int(match[1]))
        if match := re.fullmatch(r"drop:((?!auto\b)[\w.]+(?:,[\w.]+)*)", spec):
            return cls(tuple(dict.fromkeys(match[1].split(","))))
        return None

    @property
    def suffix(self) -> str:
        """`drop-layer3.3`, `drop-5-units` or `drop-auto-2`."""
        names = self.units if len(self.units) <= _MAX_NAMED else (f"{len(self.units)}-units",)
        return f"drop-{'-'.join(names) if names else f'auto-{self.count}'}"

    @property
    def needs_images(self) -> bool:
        """Whether the units are chosen by their importance on images."""
        return self.count > 0

    def changes(self, traced: "Traced", images: ImageLoader | None) -> Changes:
        """Replace the named or the least important units."""
        from graftcli.students.drop_units import check_units
        from graftcli.students.replacing import dropped

        names = check_units(traced, self.units) if self.units else self._ranked(traced, images)
        return dropped(traced.module, names)

    def _ranked(self, traced: "Traced", images: ImageLoader | None) -> list[str]:
        from graftcli.students.drop_units import droppable_units, least_important_units

        if images is None:
            named = ", ".join(f"drop:{name}" for name in list(droppable_units(traced))[:1])
            message = f"drop:auto={self.count} needs images, and none are given."
            raise UsageError(message, f"Name the units, for example {named}.")
        return least_important_units(traced, self.count, images()[:_MAX_RANKING_IMAGES])
