"""The plan: teacher and student, cut at matching places, with everything that can be known before training.

Every structural refusal happens while it is made.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch

from graftcli.errors import PairError
from graftcli.models.cuts.automatic_cuts import Position
from graftcli.models.cuts.block_costs import BlockPart, Side, count_parameters, head_params, parts_of, stem_params
from graftcli.models.cuts.pairing import CutOptions, pair, pair_derived
from graftcli.models.cuts.same_blocks import Sameness, sameness
from graftcli.models.derivation import base_of, is_derived, notes
from graftcli.models.network import Network
from graftcli.models.tracing.trace import trace

__all__ = [
    "Block",
    "BlockPart",
    "CutOptions",
    "Plan",
    "PlannedSeam",
    "Side",
    "as_json",
    "count_parameters",
    "example",
    "head_params",
    "make",
    "stem_params",
]


@dataclass(frozen=True)
class PlannedSeam:
    """What joins the networks at a cut, and where it goes when the student is merged."""

    kind: Literal["identity", "adapter"]
    folds: Literal["forward", "backward"] | None = None
    into: tuple[str, ...] = ()
    blocker: str | None = None  # why the adapter stays


@dataclass(frozen=True)
class Block:
    index: int  # from 1
    teacher: BlockPart
    student: BlockPart
    seam: PlannedSeam | None  # at the block's end; None after the last
    same: Sameness | None = None  # what equals the teacher's block, where neither end needs an adapter


@dataclass(frozen=True)
class Plan:
    teacher: Side
    student: Side
    blocks: tuple[Block, ...]
    notes: tuple[str, ...]  # what the user should know before training

    @property
    def stock(self) -> bool:
        """Whether the merged student has exactly the stock architecture's parameters."""
        return all(block.seam is None or block.seam.blocker is None for block in self.blocks)


def make(teacher: Network, student: Network, choice: CutOptions | None = None) -> Plan:
    """Cut both networks at matching places."""
    _check_apart(teacher, student)
    _check_alike(teacher, student)
    traced = [trace(net.module, example(net)) for net in (teacher, student)]
    cut = pair_derived if is_derived(student) and base_of(student) == teacher.origin else pair
    pairs = cut(traced[0], traced[1], choice or CutOptions())
    sides = [
        Side(net, graph, tuple(both[i] for both in pairs))
        for i, (net, graph) in enumerate(zip((teacher, student), traced, strict=True))
    ]
    seams = [*(_seam(ours, theirs) for ours, theirs in pairs), None]
    teacher_parts, student_parts = map(parts_of, sides)
    same = _same(sides, teacher_parts, seams)
    parts = zip(teacher_parts, student_parts, seams, same, strict=True)
    blocks = tuple(Block(i, *found) for i, found in enumerate(parts, 1))
    return Plan(sides[0], sides[1], blocks, tuple(_notes(sides, blocks)))


def example(network: Network) -> torch.Tensor:
    """Two images of noise, the same ones each time."""
    return torch.randn(2, *network.input_size, generator=torch.Generator().manual_seed(0))


def _check_apart(teacher: Network, student: Network) -> None:
    shared = {id(p) for p in teacher.module.parameters()} & {id(p) for p in student.module.parameters()}
    if shared:
        raise PairError(
            f"teacher `{teacher.name}` and student `{student.name}` share {len(shared)} tensors of weights:"
            " training the one would change the other.",
            "Build the student on its own, or from a deep copy.",
        )


def _check_alike(teacher: Network, student: Network) -> None:
    sizes = ["x".join(map(str, network.input_size)) for network in (teacher, student)]
    for what, flag, ours, theirs in (
        ("class counts", "--num-classes", str(teacher.num_classes), str(student.num_classes)),
        ("input sizes", "--img-size, --in-chans", *sizes),
    ):
        if ours != theirs:
            raise PairError(
                f"the {what} differ: teacher `{teacher.name}` has {ours}, student `{student.name}` has {theirs}.",
                f"Build both for the same ({flag}), or leave the student's checkpoint away.",
            )


def _seam(ours: Position, theirs: Position) -> PlannedSeam:
    """The seam at one cut; folding is the student's, forwards where both ways are open."""
    if ours.channels == theirs.channels:
        return PlannedSeam("identity")
    if theirs.forwards:
        return PlannedSeam("adapter", "forward", tuple(layer.path for layer in theirs.forwards.layers))
    if theirs.backwards:
        return PlannedSeam("adapter", "backward", tuple(layer.path for layer in theirs.backwards.layers))
    return PlannedSeam("adapter", blocker=f"{theirs.forwards.blocker}; {theirs.backwards.blocker}")


def _same(
    sides: Sequence[Side], parts: Sequence[BlockPart], seams: Sequence[PlannedSeam | None]
) -> list[Sameness | None]:
    """For each block what of it equals the teacher's; none does at whose ends the channels differ."""
    ends = [True, *(seam is None or seam.kind == "identity" for seam in seams)]
    blocks = zip(sides[0].blocks, sides[1].blocks, parts, pairwise(ends), strict=True)
    return [sameness(first, second, part.inputs) if all(plain) else None for first, second, part, plain in blocks]


def _notes(sides: Sequence[Side], blocks: Sequence[Block]) -> list[str]:
    found = notes(sides[1].network)
    for role, side in zip(("teacher", "student"), sides, strict=True):
        for path, reason in list(side.traced.opaque.items())[:1]:
            kept = len(side.traced.opaque)
            found.append(f"{kept} module{'s' * (kept > 1)} of the {role} kept whole, as `{path}`: {reason}")
        if not side.traced.finite:
            found.append(f"the {role} answers noise with NaN or infinity: its cuts are not proved on numbers")
        unused = side.params - sum((b.teacher if role == "teacher" else b.student).params for b in blocks)
        if unused:
            found.append(f"{unused:,} parameters of the {role} take no part in its answer and are in no block")
    return found


# -- as JSON ------------------------------------------------------------------------------------------------------


def as_json(plan: Plan) -> dict[str, Any]:
    return {
        "teacher": _side_json(plan.teacher),
        "student": _side_json(plan.student),
        "img_size": list(plan.teacher.network.input_size),
        "blocks": [
            {
                "index": block.index,
                "teacher": _part_json(block.teacher),
                "student": _part_json(block.student),
                "seam": _seam_json(block.seam),
                "same": block.same,
            }
            for block in plan.blocks
        ],
        "stock": plan.stock,
        "notes": list(plan.notes),
    }


def _side_json(side: Side) -> dict[str, Any]:
    network = side.network
    return {
        "name": network.name,
        "source": network.source,
        "weights": network.weights,
        "params": side.params,
        "macs": side.macs,
        "stem": stem_params(side),
        "head": head_params(side),
    }


def _part_json(part: BlockPart) -> dict[str, Any]:
    shapes = {"in": list(part.inputs), "out": list(part.outputs)}
    return {"first": part.first, "last": part.last, "params": part.params, "macs": part.macs, **shapes}


def _seam_json(seam: PlannedSeam | None) -> dict[str, Any] | None:
    if seam is None:
        return None
    return {"kind": seam.kind, "folds": seam.folds, "into": list(seam.into), "blocker": seam.blocker}
