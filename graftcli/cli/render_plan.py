"""Print plans and inspections: the blocks of two networks, the seams between them, and the cuts of one network."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from graftcli.cli.render import human, line, table
from graftcli.report.format import builder

if TYPE_CHECKING:
    from graftcli.api.planning import Inspection
    from graftcli.events import MemoryPlanned
    from graftcli.models.cuts.automatic_cuts import Position
    from graftcli.models.cuts.foldability import Fold
    from graftcli.models.cuts.plan import Block, BlockPart, Plan, Side
    from graftcli.runs.shares import Shares

_SAME = {
    "weights": "same as the teacher; frozen by recipes with `freeze: same`, the default",
    "architecture": "same architecture as the teacher; frozen if the recipe inherits the teacher's weights",
}


def plan(made: "Plan") -> None:
    """Print the blocks of a plan, the seams between them, the totals, and whether the student is stock."""
    columns = ("block", "network", "layers", "output", "parameters", "MACs")
    table("", columns, _rows(made), right=columns[3:])
    line()
    for block, teacher, student in zip(made.blocks, made.teacher.cuts, made.student.cuts, strict=False):
        line(f"seam after block {block.index}: {_seam(block, teacher, student)}")
    for same, meaning in _SAME.items():
        if blocks := [block.index for block in made.blocks if block.same == same]:
            line(f"{_numbered(blocks)}: {meaning}")
    line()
    line(f"teacher: {_summary(made.teacher)}")
    line(f"student: {_summary(made.student)}")
    line(_stock(made))
    for note in made.notes:
        line(f"note: {note}")


def shares(divided: "Shares") -> None:
    """Print which process does which share of a run, and the speed-up over one process."""
    line()
    rows = [
        (
            share.name,
            "all" if share.rank is None else f"rank {share.rank}",
            f"{share.cost / divided.cost:.1%}",
            f"{human(share.exchanged)}B" if divided.size > 1 and share.exchanged else "",
        )
        for stage in divided.stages
        for share in stage
    ]
    table("", ("task", "process", "share of the work", "exchanged"), rows, right=("share of the work", "exchanged"))
    line()
    line(f"{divided.size} processes: at most {divided.speed_up:.2f} times as fast as one, not counting communication")


def memory(planned: "MemoryPlanned") -> None:
    """Print what a run stores, and where."""
    line()
    names = [part.what if part.block is None else f"features {part.block}" for part in planned.parts]
    rows = [(name, f"{human(part.bytes)}B", part.place) for name, part in zip(names, planned.parts, strict=True)]
    table(f"teacher cache of {planned.views:,} views", ("value", "size", "place"), rows, right=("size",))


def _rows(made: "Plan") -> Iterator[tuple[object, ...]]:
    """Yield two rows per block, then two for the totals: the teacher, and the student with its savings."""
    for block in made.blocks:
        yield block.index, "teacher", *_cells(block.teacher)
        yield "", "student", *_cells(block.student, block.teacher)
    teacher, student = made.teacher, made.student
    yield "all", "teacher", teacher.network.name, "", *_costs(teacher)
    yield "", "student", student.network.name, "", *_costs(student, teacher)


def _cells(part: "BlockPart", reference: "BlockPart | None" = None) -> tuple[str, ...]:
    return _layers(part), _shape(part.outputs), *_costs(part, reference)


def _costs(part: "BlockPart | Side", reference: "BlockPart | Side | None" = None) -> tuple[str, str]:
    """Format parameters and MACs, with their change relative to the reference."""
    params, macs = f"{part.params:,}", human(part.macs)
    if reference is None:
        return params, macs
    return params + _change(reference.params, part.params), macs + _change(reference.macs, part.macs)


def _layers(part: "BlockPart") -> str:
    return part.first if part.first == part.last else f"{part.first} … {part.last}"


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _change(teacher: int, student: int) -> str:
    return f" ({100 * (student - teacher) / teacher:+.0f}%)" if teacher else ""


def _numbered(blocks: Sequence[int]) -> str:
    return f"block{'s' * (len(blocks) > 1)} {', '.join(map(str, blocks))}"


def _seam(block: "Block", teacher: "Position", student: "Position") -> str:
    seam = block.seam
    if seam is None or seam.kind == "identity":
        return f"identity, both have {teacher.channels} channels"
    adapter = f"adapter {teacher.channels} to {student.channels} channels"
    if seam.blocker is not None:
        return f"{adapter}, stays in the student: {seam.blocker}"
    return f"{adapter}, folds {seam.folds} into {', '.join(seam.into)}"


def _summary(side: "Side") -> str:
    from graftcli.models.cuts.plan import head_params, stem_params

    network = side.network
    return (
        f"{network.name} from {network.source}, {network.num_classes} classes, input {_shape(network.input_size)},"
        f" stem {stem_params(side):,} and head {head_params(side):,} parameters"
    )


def _stock(made: "Plan") -> str:
    name = made.student.network.name
    if place := builder(made.student.network.origin["kind"], stock=made.stock):
        return f"stock: yes, in {place}: the merged student has exactly the parameters of {name}"
    if made.stock:
        return f"stock: NO, {name} is derived from the teacher: load it with graftcli.load, or export it"
    kept = [block.index for block in made.blocks if block.seam is not None and block.seam.blocker is not None]
    return f"stock: NO, the adapters after {_numbered(kept)} stay in the student, in addition to {name}"


def inspection(result: "Inspection", positions: "Sequence[Position]") -> None:
    """Print the cuts of a network and the layers that adapters could fold into at each."""
    from graftcli.models.network import size_notes

    network = result.network
    macs = human(sum(result.traced.macs.values()), "MACs")
    size = _shape(network.input_size)
    line(f"{network.name} from {network.source}: {human(result.params)} parameters, {macs}, input {size}")
    if not positions:
        line("No valid cut: no single tensor near the middle of the network carries all that later layers need.")
    elif result.by_work:
        line("The feature maps never shrink: cut at equal shares of the MACs.")
    if positions:
        line()
        columns = ("", "after", "output", "layout", "folds forward into", "folds backward into")
        table("", columns, [_row(number, position) for number, position in enumerate(positions, 1)])
    for note in size_notes(network):
        line(f"note: {note}")
    for path, reason in result.traced.opaque.items():
        line(f"note: `{path}` is not traced into: {reason}")


def _row(number: int, position: "Position") -> tuple[object, ...]:
    shape = _shape(position.shape)
    return number, position.name, shape, position.layout, _fold(position.forwards), _fold(position.backwards)


def _fold(fold: "Fold") -> str:
    return ", ".join(layer.path for layer in fold.layers) if fold else f"no: {fold.blocker}"
