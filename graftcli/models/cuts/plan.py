"""The plan: teacher and student, cut at matching positions, with everything known before training.

All structural errors are raised while the plan is made.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from pydantic import JsonValue

from graftcli.errors import PairError
from graftcli.models.cuts.automatic_cuts import Position
from graftcli.models.cuts.block_costs import BlockPart, Side, count_parameters, head_params, measure_blocks, stem_params
from graftcli.models.cuts.pairing import CutOptions, pair, pair_derived
from graftcli.models.cuts.positions import needs_adapter
from graftcli.models.cuts.same_blocks import Sameness, sameness
from graftcli.models.derivation import base_origin, is_derived, notes
from graftcli.models.network import Network, size_notes
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
    """The seam at a cut, and the layers its adapter is folded into when the student is merged."""

    kind: Literal["identity", "adapter"]
    folds: Literal["forward", "backward"] | None = None
    into: tuple[str, ...] = ()
    blocker: str | None = None  # why the adapter cannot be folded


@dataclass(frozen=True)
class Block:
    """A block of the plan, in both networks."""

    index: int  # from 1
    teacher: BlockPart
    student: BlockPart
    seam: PlannedSeam | None  # at the end of the block; None after the last block
    same: Sameness | None = (
        None  # what is equal to the teacher's block, if anything; None if an adapter is needed at an end
    )


@dataclass(frozen=True)
class Plan:
    """Teacher and student, cut at matching positions."""

    teacher: Side
    student: Side
    blocks: tuple[Block, ...]
    notes: tuple[str, ...]  # shown to the user before training

    @property
    def stock(self) -> bool:
        """Whether the merged student has exactly the parameters of its stock architecture."""
        return all(block.seam is None or block.seam.blocker is None for block in self.blocks)


def make(teacher: Network, student: Network, options: CutOptions | None = None) -> Plan:
    """Plan how two networks are cut at matching positions."""
    _check_no_shared_weights(teacher, student)
    _check_same_input_and_classes(teacher, student)
    traced = [trace(net.module, example(net)) for net in (teacher, student)]
    pair_cuts = pair_derived if is_derived(student) and base_origin(student) == teacher.origin else pair
    pairs = pair_cuts(traced[0], traced[1], options or CutOptions())
    sides = [
        Side(net, graph, tuple(matched[i] for matched in pairs))
        for i, (net, graph) in enumerate(zip((teacher, student), traced, strict=True))
    ]
    seams = [*(_seam(teacher_cut, student_cut) for teacher_cut, student_cut in pairs), None]
    teacher_parts, student_parts = map(measure_blocks, sides)
    same = _same(sides, teacher_parts, seams)
    parts = zip(teacher_parts, student_parts, seams, same, strict=True)
    blocks = tuple(Block(i, *parts_of_block) for i, parts_of_block in enumerate(parts, 1))
    return Plan(sides[0], sides[1], blocks, tuple(_notes(sides, blocks)))


def example(network: Network) -> torch.Tensor:
    """A fixed batch of two noise images."""
    return torch.randn(2, *network.input_size, generator=torch.Generator().manual_seed(0))


def _check_no_shared_weights(teacher: Network, student: Network) -> None:
    shared = {id(p) for p in teacher.module.parameters()} & {id(p) for p in student.module.parameters()}
    if shared:
        raise PairError(
            f"teacher `{teacher.name}` and student `{student.name}` share {len(shared)} parameter tensors:"
            " training the student would change the teacher.",
            "Build the student separately, or from a deep copy.",
        )


def _check_same_input_and_classes(teacher: Network, student: Network) -> None:
    sizes = ["x".join(map(str, network.input_size)) for network in (teacher, student)]
    for subject, flag, teacher_value, student_value in (
        ("class counts", "--num-classes", str(teacher.num_classes), str(student.num_classes)),
        ("input sizes", "--img-size, --in-chans", *sizes),
    ):
        if teacher_value != student_value:
            raise PairError(
                f"the {subject} differ: teacher `{teacher.name}` has {teacher_value},"
                f" student `{student.name}` has {student_value}.",
                f"Build both with equal values ({flag}), or remove the student's checkpoint.",
            )


def _seam(teacher: Position, student: Position) -> PlannedSeam:
    """The seam at a cut; adapters are folded into the student, forwards if both directions are possible."""
    if not needs_adapter(teacher, student):
        return PlannedSeam("identity")
    if student.forwards:
        return PlannedSeam("adapter", "forward", tuple(layer.path for layer in student.forwards.layers))
    if student.backwards:
        return PlannedSeam("adapter", "backward", tuple(layer.path for layer in student.backwards.layers))
    return PlannedSeam("adapter", blocker=f"{student.forwards.blocker}; {student.backwards.blocker}")


def _same(
    sides: Sequence[Side], parts: Sequence[BlockPart], seams: Sequence[PlannedSeam | None]
) -> list[Sameness | None]:
    """For each block, what equals the teacher's block; None if the channels differ at an end."""
    ends = [True, *(seam is None or seam.kind == "identity" for seam in seams)]
    blocks = zip(sides[0].blocks, sides[1].blocks, parts, pairwise(ends), strict=True)
    return [sameness(first, second, part.inputs) if all(matching) else None for first, second, part, matching in blocks]


def _notes(sides: Sequence[Side], blocks: Sequence[Block]) -> list[str]:
    messages = [*size_notes(sides[0].network), *_size_of_student(*sides), *notes(sides[1].network)]
    for role, side in zip(("teacher", "student"), sides, strict=True):
        for path, reason in list(side.traced.opaque.items())[:1]:
            untraced = len(side.traced.opaque)
            messages.append(
                f"{untraced} module{'s' * (untraced > 1)} of the {role} not traced, for example `{path}`: {reason}"
            )
        if not side.traced.finite:
            messages.append(f"the {role} returns NaN or infinity for noise: its cuts are not verified numerically")
        unused = side.params - sum((b.teacher if role == "teacher" else b.student).params for b in blocks)
        if unused:
            messages.append(f"{unused:,} parameters of the {role} do not affect its output and are in no block")
    return messages


def _size_of_student(teacher: Side, student: Side) -> list[str]:
    """A warning if the student is larger than the teacher in every respect."""
    if student.params <= teacher.params or student.macs <= teacher.macs:
        return []
    params, macs = student.params / max(1, teacher.params), student.macs / max(1, teacher.macs)
    times = f"{params:.2g} times its parameters and {macs:.2g} times"
    return [f"the student is larger than the teacher: {times} its MACs; are --teacher and --student swapped?"]


# -- as JSON -----------------------------------------------------------------------------------------------------


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan as `graftcli plan --json` prints it."""
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


def _side_json(side: Side) -> dict[str, JsonValue]:
    network = side.network
    return {
        "name": network.name,
        "source": network.source,
        "weights": str(network.weights),
        "params": side.params,
        "macs": side.macs,
        "stem": stem_params(side),
        "head": head_params(side),
    }


def _part_json(part: BlockPart) -> dict[str, JsonValue]:
    return {
        "first": part.first,
        "last": part.last,
        "params": part.params,
        "macs": part.macs,
        "in": [*part.inputs],
        "out": [*part.outputs],
    }


def _seam_json(seam: PlannedSeam | None) -> dict[str, JsonValue] | None:
    if seam is None:
        return None
    return {"kind": seam.kind, "folds": seam.folds, "into": list(seam.into), "blocker": seam.blocker}
