"""A plan and a look at one network: what can be known before anything is trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftcli.models.cuts import plan as plans
from graftcli.models.cuts.automatic_cuts import by_work, cuts
from graftcli.models.cuts.pairing import CutOptions
from graftcli.models.cuts.plan import Plan, count_parameters
from graftcli.models.cuts.positions import Position, positions
from graftcli.models.loading.build import build
from graftcli.models.network import Network
from graftcli.models.tracing.trace import Traced, trace
from graftcli.students.make import made_from_teacher, maker

ImgSize = int | tuple[int, int] | None


def plan(
    teacher: str | Network,
    student: str | Network,
    *,
    teacher_checkpoint: str | Path | None = None,
    student_checkpoint: str | Path | None = None,
    num_classes: int | None = None,
    in_chans: int | None = None,
    img_size: ImgSize = None,
    ema: bool | None = None,
    unsafe_load: bool = False,
    trust_code: bool = False,
    blocks_count: int | None = None,
    split_teacher: Sequence[str] | None = None,
    split_student: Sequence[str] | None = None,
) -> Plan:
    """Teacher and student cut at matching places; no pretrained weights are fetched for it."""
    if isinstance(teacher, str):
        teacher = build(
            teacher,
            checkpoint=teacher_checkpoint or "none",
            num_classes=num_classes,
            in_chans=in_chans,
            img_size=img_size,
            ema=ema,
            unsafe=unsafe_load,
            trust_code=trust_code,
            role="teacher",
        )
    if isinstance(student, str):
        student = build(
            student,
            checkpoint=student_checkpoint or (None if made_from_teacher(student) else "none"),
            ema=ema,
            unsafe=unsafe_load,
            trust_code=trust_code,
            like=teacher,
            role="student",
            derive=maker(),
        )
    by_hand = [None if names is None else tuple(names) for names in (split_teacher, split_student)]
    return plans.make(teacher, student, CutOptions(blocks_count, *by_hand))


@dataclass(frozen=True)
class Inspection:
    """One network and the places where it can be cut."""

    network: Network
    traced: Traced
    cuts: tuple[Position, ...]  # the natural ones, or equal shares of the work where the image never shrinks
    by_work: bool

    @property
    def params(self) -> int:
        return count_parameters(self.network.module)

    @property
    def positions(self) -> list[Position]:
        """Every place that qualifies."""
        return positions(self.traced)


def inspect(spec: str, *, checkpoint: str | Path | None = None, blocks_count: int = 4, **building: Any) -> Inspection:
    """The cuts of one network; `building` is what `build` takes: num_classes, in_chans, img_size, ema, unsafe,
    trust_code."""
    network = build(spec, checkpoint=checkpoint or "none", role="model", **building)
    traced = trace(network.module, plans.example(network))
    natural = cuts(traced)
    return Inspection(network, traced, tuple(natural or by_work(traced, blocks_count)), not natural)
