"""Plans and inspections -> text: the blocks of two networks, the seams between them, and one network's cuts."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from graftcli.cli.render import human, line, table

if TYPE_CHECKING:
    from graftcli.api import Inspection
    from graftcli.models.cuts.automatic_cuts import Position
    from graftcli.models.cuts.foldability import Fold
    from graftcli.models.cuts.plan import Block, BlockPart, Plan, Side

_SAME = {
    "weights": "same as the teacher: frozen, unless the recipe has `freeze: none`",
    "architecture": "same architecture as the teacher: frozen with its weights, where the recipe inherits them",
}


def plan(made: "Plan") -> None:
    """Print the blocks of a plan, the seams between them, the totals, and whether the student will be stock."""
    columns = ("block", "network", "spans", "gives", "parameters", "MACs")
    table("", columns, _rows(made), right=columns[3:])
    line()
    for block, ours, theirs in zip(made.blocks, made.teacher.cuts, made.student.cuts, strict=False):
        line(f"seam behind block {block.index}: {_seam(block, ours, theirs)}")
    for same, said in _SAME.items():
        if blocks := [block.index for block in made.blocks if block.same == same]:
            line(f"block{'s' * (len(blocks) > 1)} {', '.join(map(str, blocks))}: {said}")
    line()
    line(f"teacher: {_facts(made.teacher)}")
    line(f"student: {_facts(made.student)}")
    line(_stock(made))
    for note in made.notes:
        line(f"note: {note}")


def _rows(made: "Plan") -> Iterator[tuple[object, ...]]:
    """Two rows a block: the teacher's, and the student's with what it saves."""
    for block in made.blocks:
        ours, theirs = block.teacher, block.student
        yield block.index, "teacher", _span(ours), _shape(ours.outputs), f"{ours.params:,}", human(ours.macs)
        params, macs = _less(ours.params, theirs.params), _less(ours.macs, theirs.macs)
        cells = (f"{theirs.params:,}{params}", f"{human(theirs.macs)}{macs}")
        yield "", "student", _span(theirs), _shape(theirs.outputs), *cells
    ours_all, theirs_all = made.teacher, made.student
    yield "all", "teacher", ours_all.network.name, "", f"{ours_all.params:,}", human(ours_all.macs)
    params, macs = _less(ours_all.params, theirs_all.params), _less(ours_all.macs, theirs_all.macs)
    yield (
        "",
        "student",
        theirs_all.network.name,
        "",
        f"{theirs_all.params:,}{params}",
        f"{human(theirs_all.macs)}{macs}",
    )


def _span(part: "BlockPart") -> str:
    return part.first if part.first == part.last else f"{part.first} … {part.last}"


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _less(ours: int, theirs: int) -> str:
    """By how much the student has less than the teacher; more of it shows as a plus."""
    return f" ({100 * (theirs - ours) / ours:+.0f}%)" if ours else ""


def _seam(block: "Block", ours: "Position", theirs: "Position") -> str:
    seam = block.seam
    if seam is None or seam.kind == "identity":
        return f"identity, both have {ours.channels} channels"
    adapter = f"adapter {ours.channels} to {theirs.channels} channels"
    if seam.blocker is not None:
        return f"{adapter}, stays in the student: {seam.blocker}"
    return f"{adapter}, folds {seam.folds} into {', '.join(seam.into)}"


def _facts(side: "Side") -> str:
    from graftcli.models.cuts.plan import head_params, stem_params

    network = side.network
    return (
        f"{network.name} from {network.source}, {network.num_classes} classes, images of {_shape(network.input_size)};"
        f" stem {stem_params(side):,} and head {head_params(side):,} parameters"
    )


def _stock(made: "Plan") -> str:
    name = made.student.network.name
    if made.stock:
        return f"stock: yes, the merged student has exactly the parameters of {name}"
    stay = [str(block.index) for block in made.blocks if block.seam is not None and block.seam.blocker is not None]
    behind = f"block{'s' * (len(stay) > 1)} {', '.join(stay)}"
    return f"stock: NO, the adapters behind {behind} stay in the student, beside the parameters of {name}"


def inspection(found: "Inspection", places: "Sequence[Position]") -> None:
    """Print a network's cuts, and what adapters could fold into at each."""
    network = found.network
    macs = human(sum(found.traced.macs.values()), "MACs")
    size = _shape(network.input_size)
    line(f"{network.name} from {network.source}: {human(found.params)} parameters, {macs}, images of {size}")
    if not places:
        line("It cannot be cut: nowhere about the middle of its work does one tensor carry all that is still needed.")
    elif found.by_work:
        line("Its maps never shrink: cut at equal shares of the work.")
    if places:
        line()
        columns = ("", "behind", "gives", "layout", "folds forward into", "folds backward into")
        table("", columns, [_place(number, place) for number, place in enumerate(places, 1)])
    for path, reason in found.traced.opaque.items():
        line(f"note: `{path}` is kept whole: {reason}")


def _place(number: int, place: "Position") -> tuple[object, ...]:
    shape = _shape(place.shape)
    return number, place.name, shape, place.layout, _fold(place.forwards), _fold(place.backwards)


def _fold(fold: "Fold") -> str:
    return ", ".join(layer.path for layer in fold.layers) if fold else f"no: {fold.blocker}"
