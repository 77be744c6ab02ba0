"""What comes out of a run: its result, what its folder's files tell, and the one file that is wanted beside it."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from graftcli.errors import CheckpointError
from graftcli.events import FileSaved, Listener
from graftcli.formats.options import ExportOptions, ExportSource, about
from graftcli.formats.write import write
from graftcli.graft.engine import Outcome
from graftcli.graft.training.judge import Verdict
from graftcli.measure import size_of
from graftcli.models.loading.documents import fault
from graftcli.models.loading.saved import WEIGHTS_FILE, read_document
from graftcli.runs.loading import load
from graftcli.runs.prepare import PreparedRun, trained_on
from graftcli.store import Store, TimeSpent
from graftcli.store.atomic import write_bytes
from graftcli.store.model_card import CardFacts
from graftcli.store.run_file import RUN_FILE


@dataclass(frozen=True)
class Setback:
    """A task whose training lowered the agreement with the teacher, and how much of the change is kept."""

    unit: str
    before: float  # agreement, on views of held-out images or unseen views of the training images
    after: float
    kept: float
    fraction: float  # of the change of the weights, that is kept: 0 keeps those before
    stopped: int | None  # the step at which it was ended, because it had lost agreement at every mark


@dataclass(frozen=True)
class Result:
    """What came out of a run, and where it lies."""

    folder: str
    teacher: str
    student: str
    blocks: tuple[int, ...]
    params: tuple[int, int]  # of the teacher, of what came out
    macs: tuple[int, int]
    unmerged: tuple[int, int]  # parameters and MACs of what came out, with every adapter still a layer
    kept: tuple[str, ...]  # the adapters that stay, and why
    bytes: tuple[int, int]  # of their weights
    stock: bool
    agreement: float | None  # with the teacher, on views of held-out images; None where there were none
    held_out: int
    images: int  # that it was trained on
    merge_errors: tuple[float, float]  # as shares of the largest logit, in float64 and float32
    seconds: float  # of all sessions
    peak_memory: int  # bytes, the most of any session
    kl: float | None = None  # KL(teacher || result) on the views of the agreement, in nats
    frozen: tuple[int, ...] = ()  # blocks that equal the teacher's and were not trained
    setbacks: tuple[Setback, ...] = ()
    already_done: bool = False


def result_of(start: PreparedRun, folder: Path, outcome: Outcome, spent: TimeSpent) -> Result:
    plan, merged, likeness = start.plan, outcome.merged, outcome.likeness
    return Result(
        folder=str(folder),
        teacher=plan.teacher.network.name,
        student=plan.student.network.name,
        blocks=start.blocks,
        params=(plan.teacher.params, merged.params),
        macs=(plan.teacher.macs, merged.macs),
        unmerged=(merged.unmerged_params, merged.unmerged_macs),
        kept=tuple(f"{kept.adapter} at cut {kept.cut} stays a layer: {kept.reason}" for kept in merged.kept),
        bytes=(size_of(plan.teacher.network.module), size_of(merged.module)),
        stock=merged.stock,
        agreement=likeness.agreement if likeness else None,
        kl=likeness.kl if likeness and math.isfinite(likeness.kl) else None,
        held_out=outcome.held_out,
        images=trained_on(start),
        frozen=tuple(block for block in start.frozen if block in start.blocks),
        setbacks=tuple(_setback(unit, verdict) for unit, verdict in outcome.verdicts.items() if verdict.is_setback),
        merge_errors=outcome.errors,
        seconds=spent.seconds,
        peak_memory=spent.peak_memory,
    )


def _setback(unit: str, found: Verdict) -> Setback:
    before, after, kept = found.before.agreement, found.after.agreement, found.kept.agreement
    return Setback(unit, before, after, kept, found.fraction, found.stopped)


def done_before(store: Store, single: Path | None, start: PreparedRun, listen: Listener) -> Result:
    """The result of a run that was done before, whose files are whole; a single file that is not is written now."""
    try:
        result = TypeAdapter(Result).validate_python(store.finished)
    except ValidationError as err:
        found = f"`{store.folder / RUN_FILE}` is damaged or was changed: {fault(err, 'result')}."
        raise CheckpointError(found, "Start the run from scratch with --overwrite.") from err
    if single is not None and not store.has(single):
        write_single(single, store.folder, start, listen)
        store.written(single)
    return replace(result, folder=str(store.folder), already_done=True)


def made_of(start: PreparedRun, outcome: Outcome, result: Result, command: str) -> CardFacts:
    """What the folder's files tell of the network."""
    on = f"on views of {result.held_out:,} held-out images"
    agreement = f"{result.agreement:.1%} {on}" if result.agreement is not None else None
    return CardFacts(
        teacher=start.plan.teacher.network.origin,
        student=start.plan.student.network.origin,
        preprocess=start.preprocess,
        recipe=start.recipe.name,
        images=result.images,
        command=command,
        numbers={
            "parameters": result.params[1],
            "parameters of the teacher": result.params[0],
            "MACs": result.macs[1],
            "MACs of the teacher": result.macs[0],
            "agreement with the teacher": agreement,
        },
        hybrid=outcome.merged.facts,
    )


def write_single(single: Path, folder: Path, start: PreparedRun, listen: Listener) -> None:
    """The network in the run's folder once more, as one file."""
    if single.suffix == ".onnx":
        document, plan = read_document(folder)[0], start.plan
        blocks = document["hybrid"]["blocks"] if document["kind"] == "hybrid" else None
        facts = about(plan.teacher.network.name, plan.student.network.name, blocks, start.train.digest)
        module = load(folder)
        write(ExportSource(module, start.preprocess, start.train.pixels, facts=facts), ExportOptions(), single)
    else:
        write_bytes(single, (folder / WEIGHTS_FILE).read_bytes(), follow=True)
    listen(FileSaved(str(single)))
