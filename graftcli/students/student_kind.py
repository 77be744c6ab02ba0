"""The interface of a kind of student.

torch is imported when a student is derived, so that parsing specs and help texts do not need it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Self

if TYPE_CHECKING:
    from torch import Tensor, nn

    from graftcli.models.channel_selection import ChannelSelection
    from graftcli.models.tracing.trace import Traced

ImageLoader = Callable[[], "Tensor"]  # returns a few preprocessed images

NUMBER = r"(\d+\.?\d*|\.\d+)"  # in the regular expression of a spec


@dataclass(frozen=True)
class Changes:
    """The changes that turn the teacher into the student."""

    selections: "tuple[ChannelSelection, ...]"
    replaced: "Mapping[str, nn.Sequential]" = field(default_factory=dict)
    is_random: bool = False  # whether the student gets random weights instead of the teacher's
    whole: Sequence[str] = ()  # layers that the spec would narrow but that cannot be narrowed
    notes: tuple[str, ...] = ()  # shown after "the teacher's" in the plan's description of the student's weights


class StudentKind(ABC):
    """A kind of student that is derived from the teacher; an instance is a parsed spec.

    To add a kind, define a subclass in a file of `students/kinds`.

    Attributes:
        examples: Specs of this kind, for help texts, messages and the README.
        about: What the student is, for the README.
        start: A regular expression that matches the start of every spec of this kind, valid or not.
        rank: The place of the kind in messages; kinds of equal rank are listed by file name.
    """

    examples: ClassVar[tuple[str, ...]]
    about: ClassVar[str]
    start: ClassVar[str]
    rank: ClassVar[int] = 100

    @classmethod
    @abstractmethod
    def parse(cls, spec: str) -> Self | None:
        """Parse a spec without spaces; None if it does not have the syntax. Raises SpecFault for a wrong value."""

    @property
    @abstractmethod
    def suffix(self) -> str:
        """The suffix of the student's name, valid in folder names."""

    @property
    def needs_images(self) -> bool:
        """Whether the student depends on the images of the run. If not, `changes` gets no images."""
        return False

    @abstractmethod
    def changes(self, traced: "Traced", images: ImageLoader | None) -> Changes:
        """Find what to change in the teacher. `images` is None if the run has none or the kind needs none."""


class SpecFault(Exception):
    """A wrong value in a spec; `fix` is empty if the list of all specs is the best advice."""

    def __init__(self, fault: str, fix: str = "") -> None:
        super().__init__(fault)
        self.fix = fix


def parse_share(part: str, *, below_one: bool = False, fix: str = "") -> float:
    """Parse a share in (0, 1], or in (0, 1) with `below_one`; raises SpecFault for any other number."""
    share = float(part)
    if not 0 < share <= 1 or (below_one and share == 1):
        raise SpecFault(f"{part} is not a share between 0 and 1.", fix)
    return share
