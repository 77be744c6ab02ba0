"""The specs of students that are made from the teacher: text -> what is wanted.

teacher*0.5  teacher*(1,1,1,.5,.5)     every block's width, or that of each block: the first channels stay
prune:l1=0.5  prune:slim=0.5           half of the channels go: by the size of their filters, of their BatchNorm scales,
prune:act=0.5                          or by what they carry on the run's images
lowrank:0.5                            each convolution becomes two, with half of its parameters
decouple  decouple:2                   each convolution becomes depthwise + pointwise: one such pair or more
drop:layer3.3,layer3.4  drop:auto=2    residual units become identities
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
    share: float  # of the channels that go


@dataclass(frozen=True)
class LowRank:
    share: float  # of a convolution's parameters that its two stay below


@dataclass(frozen=True)
class Decoupled:
    pairs: int


@dataclass(frozen=True)
class Dropped:
    """Units by name, or how many are chosen."""

    units: tuple[str, ...]
    count: int = 0


Wanted = Narrower | Pruned | LowRank | Decoupled | Dropped

_FAMILY = re.compile(r"teacher\s*\*|(prune|lowrank|drop):|decouple(:|$)")
_NAMED = 4  # dropped units in the name of a student, and so of a folder
_NUMBER = r"(\d+\.?\d*|\.\d+)"
_FORMS = (
    "Students made from the teacher: teacher*0.5, teacher*(1,1,.5), prune:l1=0.5, prune:slim=0.5, prune:act=0.5,"
    " lowrank:0.5, decouple, decouple:2, drop:layer3.1,layer3.2, drop:auto=2."
)


def is_wanted(text: str) -> bool:
    """Whether a spec asks for a student made from the teacher, well or badly put."""
    return _FAMILY.match(text) is not None


def wanted(text: str) -> Wanted:
    """What a spec asks for."""
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
    raise UsageError(f"`{text}` is no student that can be made from the teacher.", _FORMS)


def _share(text: str, part: str, below: bool = False) -> float:
    """A number above 0 and up to 1, or below 1."""
    share = float(part)
    if share <= 0 or share > 1 or (below and share == 1):
        found = f"`{text}`: {part} is no share: it lies between 0 and 1."
        raise UsageError(found, "Give the share of channels that go, as prune:l1=0.3." if below else _FORMS)
    return share


def looks_at_images(asked: Wanted) -> bool:
    """Whether what is kept of the teacher hangs on a run's images."""
    return (isinstance(asked, Pruned) and asked.rule == "act") or (isinstance(asked, Dropped) and asked.count > 0)


def suffix(made: Wanted) -> str:
    """What a student of this kind is called, after its teacher's name; it may stand in the name of a folder."""
    if isinstance(made, Narrower):
        return f"x{'-'.join(f'{factor:g}' for factor in made.factors)}"
    if isinstance(made, Pruned):
        return f"{made.rule}-{made.share:g}"
    if isinstance(made, LowRank):
        return f"lowrank-{made.share:g}"
    if isinstance(made, Decoupled):
        return f"decoupled{made.pairs if made.pairs > 1 else ''}"
    few = made.units if len(made.units) <= _NAMED else (f"{len(made.units)}-units",)
    return f"drop-{'-'.join(few) if few else f'auto-{made.count}'}"


def width(channels: int, factor: float) -> int:
    """How many channels are left of some; halves are rounded up, and one stays."""
    return max(1, math.floor(channels * factor + 0.5))
