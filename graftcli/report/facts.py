"""What a report shows that a run's folder does not hold otherwise: report.json, which needs no network to be read."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, TypeAdapter, model_validator

from graftcli.models.cuts import plan as plans
from graftcli.models.cuts.plan import Plan
from graftcli.report.disagreement import Answer, AnswersCompared, Differing
from graftcli.report.documents import Share, Text, Warn, Whole, load, silent
from graftcli.store import REPORT_FACTS_FILE
from graftcli.store.atomic import write_json

_FORMAT = 1


@dataclass(frozen=True)
class Facts:
    """The plan, and the answers of both networks."""

    plan: dict[str, Any]  # as in `graftcli plan --json`
    cuts: tuple[tuple[str, str], ...]  # behind which modules of teacher and student
    channels: tuple[tuple[int, int], ...]  # of teacher and student at each cut
    compared: AnswersCompared | None  # None where the networks could not be run


def gather(plan: Plan, compared: AnswersCompared | None) -> Facts:
    """What there is to show of the plan, and how the networks answered."""
    pairs = list(zip(plan.teacher.cuts, plan.student.cuts, strict=True))
    return Facts(
        plan=plans.as_json(plan),
        cuts=tuple((teacher.name, student.name) for teacher, student in pairs),
        channels=tuple((teacher.channels, student.channels) for teacher, student in pairs),
        compared=compared,
    )


def write(folder: Path, facts: Facts) -> None:
    """Keep the facts in the run's folder."""
    write_json(folder / REPORT_FACTS_FILE, {"format": _FORMAT, **asdict(facts)})


def read(folder: Path, warn: Warn = silent) -> Facts | None:
    """What the folder keeps; None, with a warning, where it is not what this graftcli writes: it can be made again."""
    found = load(folder / REPORT_FACTS_FILE, _DOCUMENT, warn)
    if found is None:
        return None
    compared = found.compared.compared if found.compared is not None else None
    return Facts(found.plan.model_dump(by_alias=True), found.cuts, found.channels, compared)


# -- report.json --------------------------------------------------------------------------------------------------


class _Side(BaseModel):
    name: Text
    source: Text
    weights: Text
    params: Whole
    macs: Whole
    stem: Whole
    head: Whole


class _Part(BaseModel):
    first: Text
    last: Text
    params: Whole
    macs: Whole
    inputs: list[Whole] = Field(alias="in")
    out: list[Whole]


class _Seam(BaseModel):
    kind: Literal["identity", "adapter"]
    folds: Literal["forward", "backward"] | None
    into: list[Text]
    blocker: Text | None


class _Block(BaseModel):
    index: Whole
    teacher: _Part
    student: _Part
    seam: _Seam | None
    same: Literal["architecture", "weights"] | None = None


class _Plan(BaseModel):
    teacher: _Side
    student: _Side
    img_size: list[Whole]
    blocks: list[_Block] = Field(min_length=1, max_length=10_000)
    stock: bool
    notes: list[Text]


class _Answer(BaseModel):
    index: Whole
    name: Text | None
    share: Share


class _Differing(BaseModel):
    image: Text
    picture: Annotated[str, Field(pattern=r"\Adata:image/png;base64,[A-Za-z0-9+/]*={0,2}\z")]
    teacher: _Answer
    student: _Answer
    kl: Annotated[float, Field(ge=-1.0, le=1e9, allow_inf_nan=False)]  # a rounding error below 0 is none

    @property
    def differing(self) -> Differing:
        teacher, student = (Answer(**dict(one)) for one in (self.teacher, self.student))
        return Differing(self.image, self.picture, teacher, student, self.kl)


class _Compared(BaseModel):
    images: Whole
    same: Whole
    worst: list[_Differing] = Field(max_length=1000)

    @property
    def compared(self) -> AnswersCompared:
        return AnswersCompared(self.images, self.same, tuple(one.differing for one in self.worst))


class _Document(BaseModel):
    format: Literal[1]
    plan: _Plan
    cuts: tuple[tuple[Text, Text], ...]
    channels: tuple[tuple[Whole, Whole], ...]
    compared: _Compared | None

    @model_validator(mode="after")
    def _blocks_lie_between_cuts(self) -> Self:
        blocks = self.plan.blocks
        if [block.index for block in blocks] != list(range(1, len(blocks) + 1)):
            raise ValueError("the blocks are not numbered from 1")
        if {len(self.cuts), len(self.channels)} != {len(blocks) - 1}:
            raise ValueError(f"{len(blocks)} blocks have {len(self.cuts)} cuts and {len(self.channels)} channels")
        if any(block.seam is None for block in blocks[:-1]):
            raise ValueError("a block before the last has no seam")
        return self


_DOCUMENT = TypeAdapter(_Document)
