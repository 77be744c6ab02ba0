"""The plan as a picture: both networks from the image down to the logits, block beside block, with their cuts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from graftcli.report.facts import Facts
from graftcli.report.format import human

WIDTH = 336  # as wide as a phone leaves it, so that the letters keep their size there
_BOX, _BOX_HEIGHT = 152, 94
_GAP = 36  # where a cut runs
_HEAD, _FOOT = 44, 22
_LETTERS = 17  # that a line of a box has room for
_LETTER = 6.3  # how wide one is beside a cut, at most


@dataclass(frozen=True)
class Box:
    x: int
    y: int
    role: str
    lines: tuple[str, ...]  # what it holds, shortened; the shape of what it gives; what it costs
    named: int  # of the lines, those that say what it holds
    whole: str  # the same at full length
    work: float  # its MACs as a share of the largest block's
    used: bool  # whether it is in what came out


@dataclass(frozen=True)
class DiagramCut:
    y: int
    text: str
    whole: str

    @property
    def room(self) -> float:
        """How wide a paper keeps the line of the cut away from its text."""
        return min(_LETTER * len(self.text) + 12, WIDTH - 40)


@dataclass(frozen=True)
class Diagram:
    height: int
    boxes: tuple[Box, ...]
    cuts: tuple[DiagramCut, ...]
    width: int = WIDTH
    box_width: int = _BOX
    box_height: int = _BOX_HEIGHT
    gap: int = _GAP


def picture(facts: Facts, replaced: Sequence[int], kept: Sequence[str] | None = None) -> Diagram:
    """Where every box and cut lies; `replaced` are the blocks that were taken from the student.

    `kept` are the run's sentences about the adapters that stay; before there are any, the plan's foresight stands in.
    """
    blocks = facts.plan["blocks"]
    most = max(block[role]["macs"] for block in blocks for role in ("teacher", "student")) or 1
    boxes = [
        _box(block, role, most, (role == "student") == (block["index"] in replaced))
        for block in blocks
        for role in ("teacher", "student")
    ]
    cuts = [
        _cut(block, names, channels, {block["index"], block["index"] + 1} & {*replaced}, kept)
        for block, names, channels in zip(blocks, facts.cuts, facts.channels, strict=False)
    ]
    height = _top(len(blocks)) + _BOX_HEIGHT + _FOOT
    return Diagram(height, tuple(boxes), tuple(cuts))


def _top(index: int) -> int:
    return _HEAD + (index - 1) * (_BOX_HEIGHT + _GAP)


def _box(block: dict[str, Any], role: str, most: int, used: bool) -> Box:
    part = block[role]
    ends = (part["first"],) if part["first"] == part["last"] else (part["first"], f"… {part['last']}")
    names = tuple(shortened(end, _LETTERS) for end in ends)
    costs = (f"{human(part['params'])} parameters", f"{human(part['macs'])} MACs")
    return Box(
        x=0 if role == "teacher" else WIDTH - _BOX,
        y=_top(block["index"]),
        role=role,
        lines=(*names, f"→ {'x'.join(map(str, part['out']))}", *costs),
        named=len(names),
        whole=f"block {block['index']} of the {role}: {' '.join(ends)}",
        work=part["macs"] / most,
        used=used,
    )


def _cut(
    block: dict[str, Any],
    names: tuple[str, str],
    channels: tuple[int, int],
    near: set[int],
    kept: Sequence[str] | None,
) -> DiagramCut:
    """The line of a cut; `near` are the replaced blocks beside it."""
    index, seam = block["index"], block["seam"]
    stays = seam["blocker"] if kept is None else any(f" at cut {index} " in line for line in kept)
    ours, theirs = channels
    if not near:
        text = f"cut {index}: the teacher on both sides"
    elif seam["kind"] == "identity":
        text = f"cut {index}: {ours} channels both, no adapter"
    else:
        text = f"cut {index}: adapters {ours} ⇄ {theirs} channels, {'kept' if stays else 'folded'}"
    where = f"behind {names[0]} of the teacher and {names[1]} of the student"
    return DiagramCut(_top(index) + _BOX_HEIGHT + _GAP // 2, text, f"{text}; {where}")


def shortened(text: str, letters: int) -> str:
    """The text with its middle left out where it is longer."""
    if len(text) <= letters:
        return text
    half = (letters - 1) // 2
    return f"{text[: letters - 1 - half]}…{text[len(text) - half :]}"
