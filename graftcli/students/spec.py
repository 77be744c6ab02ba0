"""Parse the specs of students derived from the teacher.

teacher*0.5  teacher*(1,1,1,.5,.5)     width of all blocks, or of each block; the first channels are kept
prune:l1=0.5  prune:slim=0.5           remove half of the channels by filter norm or BatchNorm scale
prune:act=0.5                          remove half of the channels by activation on the run's images
lowrank:0.5                            factorize each convolution into two, with half of its parameters
decouple  decouple:2                   factorize each convolution into depthwise + pointwise, with 1 or more pairs
drop:layer3.3,layer3.4  drop:auto=2    replace residual units by identities
"""

import math
import re
from dataclasses import dataclass
from typing import Literal

from graftcli.errors import UsageError

Rule = Literal["l1", "slim", "act"]


@dataclass(frozen=True)
class Narrower:
    """`teacher*…`: one factor for all blocks, or one for each."""

    factors: tuple[float, ...]


@dataclass(frozen=True)
class Pruned:
    rule: Rule
    share: float  # share of the channels to remove


@dataclass(frozen=True)
class LowRank:
    share: float  # share of a convolution's parameters to keep


@dataclass(frozen=True)
class Decoupled:
    pairs: int


@dataclass(frozen=True)
class Dropped:
    """Units by name, or the number of units to choose."""

    units: tuple[str, ...]
    count: int = 0


StudentSpec = Narrower | Pruned | LowRank | Decoupled | Dropped

_FAMILY = re.compile(r"teacher\s*\*|(prune|lowrank|drop):|decouple(:|$)")
_MAX_NAMED = 4  # dropped units listed in the name of a student
_NUMBER = r"(\d+\.?\d*|\.\d+)"
_SPEC_FORMS = (
    "Specs of derived students: teacher*0.5, teacher*(1,1,.5), prune:l1=0.5, prune:slim=0.5, prune:act=0.5,"
    " lowrank:0.5, decouple, decouple:2, drop:layer3.1,layer3.2, drop:auto=2."
)


def is_derived_spec(text: str) -> bool:
    """Whether a spec has the form of a derived student, valid or not."""
    return _FAMILY.match(text) is not None


def parse_spec(text: str) -> StudentSpec:
    """Parse a spec; raises UsageError if it is not valid."""
    plain = re.sub(r"\s", "", text)
    if match := re.fullmatch(rf"teacher\*(?:{_NUMBER}|\(({_NUMBER}(?:,{_NUMBER})*)\))", plain):
        return Narrower(tuple(_share(text, part) for part in (match[1] or match[2]).split(",")))
    if match := re.fullmatch(rf"prune:(l1|slim|act)={_NUMBER}", plain):
        rule: dict[str, Rule] = {"l1": "l1", "slim": "slim", "act": "act"}
        return Pruned(rule[match[1]], _share(text, match[2], below=True))
    if match := re.fullmatch(rf"lowrank:{_NUMBER}", plain):
        return LowRank(_share(text, match[1]))
    if match := re.fullmatch(r"decouple(?::([1-9]\d*))?", plain):
        return Decoupled(int(match[1] or 1))
    if match := re.fullmatch(r"drop:auto=([1-9]\d*)", plain):
        return Dropped((), int(match[1]))
    if match := re.fullmatch(r"drop:((?!auto\b)[\w.]+(?:,[\w.]+)*)", plain):
        return Dropped(tuple(dict.fromkeys(match[1].split(","))))
    raise UsageError(f"`{text}` is not a spec of a derived student.", _SPEC_FORMS)


def _share(text: str, part: str, below: bool = False) -> float:
    """Parse a share in (0, 1], or in (0, 1) with `below`."""
    share = float(part)
    if share <= 0 or share > 1 or (below and share == 1):
        message = f"`{text}`: {part} is not a share between 0 and 1."
        raise UsageError(
            message, "Give the share of channels to remove, for example prune:l1=0.3." if below else _SPEC_FORMS
        )
    return share


def needs_images(spec: StudentSpec) -> bool:
    """Whether the derived student depends on the images of the run."""
    return (isinstance(spec, Pruned) and spec.rule == "act") or (isinstance(spec, Dropped) and spec.count > 0)


def suffix(spec: StudentSpec) -> str:
    """The suffix of the student's name, valid in folder names."""
    if isinstance(spec, Narrower):
        return f"x{'-'.join(f'{factor:g}' for factor in spec.factors)}"
    if isinstance(spec, Pruned):
        return f"{spec.rule}-{spec.share:g}"
    if isinstance(spec, LowRank):
        return f"lowrank-{spec.share:g}"
    if isinstance(spec, Decoupled):
        return f"decoupled{spec.pairs if spec.pairs > 1 else ''}"
    names = spec.units if len(spec.units) <= _MAX_NAMED else (f"{len(spec.units)}-units",)
    return f"drop-{'-'.join(names) if names else f'auto-{spec.count}'}"


def width(channels: int, factor: float) -> int:
    """The number of channels to keep, rounded half up, at least 1."""
    return max(1, math.floor(channels * factor + 0.5))
