"""report.json: the plan and the predictions of a run, from which a report is made without the networks."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, TypeAdapter, model_validator

from graftcli.models.cuts import plan as plans
from graftcli.models.cuts.plan import Plan
from graftcli.report.disagreement import Disagreement, Prediction, PredictionComparison
from graftcli.report.documents import Share, Text, Warn, Whole, load, silent
from graftcli.store import REPORT_FACTS_FILE
from graftcli.store.atomic import write_json

_FORMAT = 1


@dataclass(frozen=True)
class Facts:
    """The plan of a run and the predictions of both networks."""

    plan: dict[str, Any]  # as in `graftcli plan --json`
    cuts: tuple[tuple[str, str], ...]  # modules of teacher and student before each cut
    channels: tuple[tuple[int, int], ...]  # of teacher and student at each cut
    compared: PredictionComparison | None  # None if the networks could not be run


def gather(plan: Plan, compared: PredictionComparison | None) -> Facts:
    """The facts of a plan and its compared predictions."""
    pairs = list(zip(plan.teacher.cuts, plan.student.cuts, strict=True))
    return Facts(
        plan=plans.as_json(plan),
        cuts=tuple((teacher.name, student.name) for teacher, student in pairs),
        channels=tuple((teacher.channels, student.channels) for teacher, student in pairs),
        compared=compared,
    )


def write(folder: Path, facts: Facts) -> None:
    """Write report.json into the run's folder."""
    write_json(folder / REPORT_FACTS_FILE, {"format": _FORMAT, **asdict(facts)})


def read(folder: Path, warn: Warn = silent) -> Facts | None:
    """Read report.json from a folder; None if it is absent or, with a warning, if this graftcli cannot read it."""
    document = load(folder / REPORT_FACTS_FILE, _DOCUMENT, warn)
    if document is None:
        return None
    compared = document.compared.comparison if document.compared is not None else None
    return Facts(document.plan.model_dump(by_alias=True), document.cuts, document.channels, compared)


# -- report.json --------------------------------------------------------------------------------------------------


class _Network(BaseModel):
    name: Text
    source: Text
    weights: Text
    params: Whole
    macs: Whole
    stem: Whole
    head: Whole


class _BlockCosts(BaseModel):
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
    teacher: _BlockCosts
    student: _BlockCosts
    seam: _Seam | None
    same: Literal["architecture", "weights"] | None = None


class _Plan(BaseModel):
    teacher: _Network
    student: _Network
    img_size: list[Whole]
    blocks: list[_Block] = Field(min_length=1, max_length=10_000)
    stock: bool
    notes: list[Text]


class _Prediction(BaseModel):
    index: Whole
    name: Text | None
    share: Share


class _Disagreement(BaseModel):
    image: Text
    picture: Annotated[str, Field(pattern=r"\Adata:image/png;base64,[A-Za-z0-9+/]*={0,2}\z")]
    teacher: _Prediction
    student: _Prediction
    kl: Annotated[float, Field(ge=-1.0, le=1e9, allow_inf_nan=False)]  # because of rounding, the value may be below 0

    @property
    def disagreement(self) -> Disagreement:
        teacher, student = (Prediction(**dict(prediction)) for prediction in (self.teacher, self.student))
        return Disagreement(self.image, self.picture, teacher, student, self.kl)


class _Compared(BaseModel):
    images: Whole
    same: Whole
    worst: list[_Disagreement] = Field(max_length=1000)

    @property
    def comparison(self) -> PredictionComparison:
        return PredictionComparison(self.images, self.same, tuple(entry.disagreement for entry in self.worst))


class _Document(BaseModel):
    format: Literal[1]
    plan: _Plan
    cuts: tuple[tuple[Text, Text], ...]
    channels: tuple[tuple[Whole, Whole], ...]
    compared: _Compared | None

    @model_validator(mode="after")
    def _blocks_match_cuts(self) -> Self:
        blocks = self.plan.blocks
        if [block.index for block in blocks] != list(range(1, len(blocks) + 1)):
            raise ValueError("the blocks are not numbered from 1")
        if {len(self.cuts), len(self.channels)} != {len(blocks) - 1}:
            raise ValueError(f"{len(blocks)} blocks have {len(self.cuts)} cuts and {len(self.channels)} channels")
        if any(block.seam is None for block in blocks[:-1]):
            raise ValueError("a block before the last has no seam")
        return self


_DOCUMENT = TypeAdapter(_Document)
