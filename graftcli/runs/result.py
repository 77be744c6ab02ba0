"""The result of a run: its figures, its model card, and the single file that `--out` may name."""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import assert_never

from torch import nn

from graftcli.events import FileSaved, Listener
from graftcli.formats.loading import load
from graftcli.formats.options import ExportOptions, ExportSource, format_of, source_facts
from graftcli.formats.write import write
from graftcli.graft.engine import Outcome
from graftcli.graft.training.judge import Verdict
from graftcli.measure import model_size
from graftcli.models.loading.saved import WEIGHTS_FILE, read_document
from graftcli.report.format import agreement
from graftcli.runs.prepare import PreparedRun, train_count
from graftcli.store import Store, TimeSpent
from graftcli.store.atomic import write_bytes
from graftcli.store.model_card import CardFacts
from graftcli.store.run_record import RunResult, Setback


@dataclass(frozen=True, kw_only=True)
class Result(RunResult):
    """A finished run: its figures, its folder and its model."""

    folder: str
    already_done: bool = False

    @cached_property
    def model(self) -> nn.Module:
        """The student or the hybrid, loaded from the folder of the run, in eval mode on the CPU."""
        return load(self.folder)

    @property
    def kind(self) -> str:
        """The kind of the student's origin, which determines what builds its architecture."""
        return read_document(Path(self.folder))[0]["student"]["kind"]


def result_of(prepared: PreparedRun, folder: Path, outcome: Outcome, time_spent: TimeSpent) -> Result:
    """Return the figures of a run that has just been trained."""
    plan, merged, score = prepared.plan, outcome.merged, outcome.score
    return Result(
        folder=str(folder),
        teacher=plan.teacher.network.name,
        student=plan.student.network.name,
        blocks=prepared.blocks,
        params=(plan.teacher.params, merged.params),
        macs=(plan.teacher.macs, merged.macs),
        unmerged=(merged.unmerged_params, merged.unmerged_macs),
        kept=merged.kept,
        bytes=(model_size(plan.teacher.network.module), model_size(merged.module)),
        stock=merged.stock,
        agreement=score.agreement if score else None,
        kl=score.kl if score and math.isfinite(score.kl) else None,
        held_out=outcome.held_out,
        images=train_count(prepared),
        frozen=tuple(block for block in prepared.frozen if block in prepared.blocks),
        setbacks=tuple(_setback(unit, verdict) for unit, verdict in outcome.verdicts.items() if verdict.is_setback),
        merge_errors=outcome.errors,
        seconds=time_spent.seconds,
        peak_memory=time_spent.peak_memory,
    )


def _setback(unit: str, verdict: Verdict) -> Setback:
    before, after, kept = verdict.before.agreement, verdict.after.agreement, verdict.kept.agreement
    return Setback(unit, before, after, kept, verdict.fraction, verdict.stopped)


def finished_result(store: Store, single: Path | None, prepared: PreparedRun, listen: Listener) -> Result:
    """Return the result of a run that has finished before; write its single file if that is missing or damaged."""
    assert store.finished is not None  # checked by the caller
    if single is not None and not store.has_single(single):
        write_single(single, store.folder, prepared, listen)
        store.record_single(single)
    return Result(**vars(store.finished), folder=str(store.folder), already_done=True)


def card_facts(prepared: PreparedRun, outcome: Outcome, result: Result, command: str) -> CardFacts:
    """Return what the model card and graft.json record about the network."""
    agreed = agreement(result.agreement, result.held_out) if result.agreement is not None else None
    return CardFacts(
        teacher=prepared.plan.teacher.network.origin,
        student=prepared.plan.student.network.origin,
        preprocess=prepared.preprocess,
        recipe=prepared.recipe.name,
        images=result.images,
        command=command,
        numbers={
            "parameters": result.params[1],
            "parameters of the teacher": result.params[0],
            "MACs": result.macs[1],
            "MACs of the teacher": result.macs[0],
            "agreement with the teacher": agreed,
        },
        hybrid=outcome.merged.facts,
    )


def write_single(single: Path, folder: Path, prepared: PreparedRun, listen: Listener) -> None:
    """Write the network of the run's folder as one file, whose suffix names its format."""
    export_format = format_of(single)
    assert export_format is not None  # `single_file` accepts no other files
    match export_format.single:
        case "exported":
            write(_export_source(folder, prepared), ExportOptions(export_format.name), single)
        case "copied":
            write_bytes(single, (folder / WEIGHTS_FILE).read_bytes(), follow=True)
        case None:
            raise ValueError(f"`distill` writes no {export_format.name} file")  # `single_file` refuses it
        case _:
            assert_never(export_format.single)
    listen(FileSaved(str(single)))


def _export_source(folder: Path, prepared: PreparedRun) -> ExportSource:
    document, plan = read_document(folder)[0], prepared.plan
    blocks = document["hybrid"]["blocks"] if document["kind"] == "hybrid" else None
    facts = source_facts(plan.teacher.network.name, plan.student.network.name, blocks, prepared.train.digest)
    return ExportSource(load(folder), prepared.preprocess, prepared.train.pixels, facts=facts)
