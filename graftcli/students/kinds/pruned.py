"""`prune:l1=0.5`: remove the least important channels by a rule."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self, assert_never, cast, get_args

from graftcli.students.student_kind import NUMBER, Changes, ImageLoader, StudentKind, parse_share

if TYPE_CHECKING:
    from graftcli.models.tracing.trace import Traced

Rule = Literal["l1", "slim", "act"]
RULES: tuple[Rule, ...] = get_args(Rule)


@dataclass(frozen=True)
class Pruned(StudentKind):
    """A student without `share` of the teacher's channels."""

    rule: Rule
    share: float

    examples = tuple(f"prune:{rule}=0.5" for rule in RULES)
    about = "without half of its channels: by filter norm, BatchNorm scale, or activations on your images"
    start = "prune:"
    rank = 2

    @classmethod
    def parse(cls, spec: str) -> Self | None:
        """Parse `prune:RULE=SHARE`."""
        match = re.fullmatch(rf"prune:({'|'.join(RULES)})={NUMBER}", spec)
        fix = "Give the share of channels to remove, for example prune:l1=0.3."
        return cls(cast(Rule, match[1]), parse_share(match[2], below_one=True, fix=fix)) if match else None

    @property
    def suffix(self) -> str:
        """`l1-0.5`."""
        return f"{self.rule}-{self.share:g}"

    @property
    def needs_images(self) -> bool:
        """Whether the rule ranks channels by their activations."""
        return self.rule == "act"

    def changes(self, traced: "Traced", images: ImageLoader | None) -> Changes:
        """Remove the channels that the rule ranks lowest; without images, activations are those on noise."""
        from graftcli.students import pruning

        match self.rule:
            case "l1":
                return pruning.prune_by_norms(traced, self.share)
            case "slim":
                return pruning.slim(traced, self.share)
            case "act":
                return pruning.prune_by_activations(traced, self.share, images() if images else traced.example)
            case _:
                assert_never(self.rule)
