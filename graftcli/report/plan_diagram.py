"""Lay out the diagram of a plan: the blocks of both networks side by side, with their cuts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from graftcli.models.cuts.foldability import KeptAdapter
from graftcli.report.facts import Facts
from graftcli.report.format import human

WIDTH = 336  # fits a phone without scaling the text down
_BOX, _BOX_HEIGHT = 152, 94
_GAP = 36  # between boxes, for the line of a cut
_HEAD, _FOOT = 44, 22
_BOX_CHARS = 17  # per line of a box
_CHAR_WIDTH = 6.3  # upper bound, for the text of a cut


@dataclass(frozen=True)
class Box:
    """The box of one block of one network."""

    x: int
    y: int
    role: str
    lines: tuple[str, ...]  # shortened names of the first and last layer, output shape, costs
    name_lines: int  # the number of leading lines with names
    title: str  # the full names
    work: float  # MACs relative to the largest block
    used: bool  # whether the block is part of the result


@dataclass(frozen=True)
class DiagramCut:
    """The line of one cut and its text."""

    y: int
    text: str
    title: str

    @property
    def text_width(self) -> float:
        """The width of the background behind the text."""
        return min(_CHAR_WIDTH * len(self.text) + 12, WIDTH - 40)


@dataclass(frozen=True)
class Diagram:
    """All boxes and cuts, in SVG user units."""

    height: int
    boxes: tuple[Box, ...]
    cuts: tuple[DiagramCut, ...]
    width: int = WIDTH
    box_width: int = _BOX
    box_height: int = _BOX_HEIGHT
    gap: int = _GAP


def plan_diagram(facts: Facts, replaced: Sequence[int], kept: Sequence[KeptAdapter] | None = None) -> Diagram:
    """Lay out every box and cut.

    Parameters:
        facts: the plan.
        replaced: the blocks that come from the student.
        kept: the adapters that the run did not fold; None: use the plan's prediction.
    """
    blocks = facts.plan["blocks"]
    max_macs = max(block[role]["macs"] for block in blocks for role in ("teacher", "student")) or 1
    boxes = [
        _box(block, role, max_macs, (role == "student") == (block["index"] in replaced))
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


def _box(block: dict[str, Any], role: str, max_macs: int, used: bool) -> Box:
    costs = block[role]
    first, last = costs["first"], costs["last"]
    ends = (first,) if first == last else (first, f"… {last}")
    names = tuple(shortened(end, _BOX_CHARS) for end in ends)
    shape = "x".join(map(str, costs["out"]))
    return Box(
        x=0 if role == "teacher" else WIDTH - _BOX,
        y=_top(block["index"]),
        role=role,
        lines=(*names, f"→ {shape}", f"{human(costs['params'])} parameters", f"{human(costs['macs'])} MACs"),
        name_lines=len(names),
        title=f"block {block['index']} of the {role}: {' '.join(ends)}",
        work=costs["macs"] / max_macs,
        used=used,
    )


def _cut(
    block: dict[str, Any],
    names: tuple[str, str],
    channels: tuple[int, int],
    replaced: set[int],
    kept: Sequence[KeptAdapter] | None,
) -> DiagramCut:
    """The line of a cut; `replaced` are the replaced blocks next to it."""
    index, seam = block["index"], block["seam"]
    is_kept = seam["blocker"] if kept is None else any(adapter.cut == index for adapter in kept)
    teacher, student = channels
    if not replaced:
        text = f"cut {index}: teacher on both sides"
    elif seam["kind"] == "identity":
        text = f"cut {index}: {teacher} channels on both sides, no adapter"
    else:
        text = f"cut {index}: adapters {teacher} ⇄ {student} channels, {'kept' if is_kept else 'folded'}"
    where = f"after {names[0]} of the teacher and {names[1]} of the student"
    return DiagramCut(_top(index) + _BOX_HEIGHT + _GAP // 2, text, f"{text}; {where}")


def shortened(text: str, length: int) -> str:
    """Replace the middle of a text longer than `length` by an ellipsis."""
    if len(text) <= length:
        return text
    half = (length - 1) // 2
    return f"{text[: length - 1 - half]}…{text[len(text) - half :]}"
