"""`compare`: recipes, students, shots and draws on one teacher -> a run's folder for each cell, and one table of them.

compare.json   what was found, as `--json` tells it; compare.md and report.html show it
cells.json     what was settled before a cell was trained, and its score: the same command takes them as they are
images/        what was drawn
cells/NAME/    the runs, as `distill` and `partial` leave them
"""

import gc
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from graftcli.comparison.budget import Budget, Paced, paced
from graftcli.comparison.compatibility import EligibleMethods, PairFacts
from graftcli.comparison.fingerprint import mark_of, state_of
from graftcli.comparison.grid import Cell, Draws, Grid, cells_of, draws_of, label_of
from graftcli.comparison.profile import SCRATCH
from graftcli.comparison.result_cache import NOTEBOOK_FILE, ResultCache
from graftcli.comparison.scorer import Scorer
from graftcli.environment.installs import versions
from graftcli.environment.machine import cpu, forget_peak, usable_cores
from graftcli.errors import GateError, PairError, UsageError, few
from graftcli.events import CellStarted, Event, FileSaved, Listener, TimeEstimated, Warned
from graftcli.report.comparison import CellScore, Comparison, TeacherScore, lines, markdown
from graftcli.report.page import comparison_page
from graftcli.report.run_view import records, stages
from graftcli.runs.config import RunConfig
from graftcli.runs.prepare import with_batch
from graftcli.runs.running import distill
from graftcli.store import METRICS_FILE, REPORT_FILE
from graftcli.store.atomic import write_bytes, write_json
from graftcli.store.locks import locked
from graftcli.store.run_file import RUN_FILE
from graftcli.store.run_record import is_whole, read_record

COMPARISON = Path("runs/compare")
TABLE_FILE, FACTS_FILE = "compare.md", "compare.json"
OWN = ("cells", "images")  # what may lie in a folder before its first fact is found


def compare(
    asked: RunConfig,
    grid: Grid,
    *,
    budget: Budget | None = None,
    test: str | Path | None = None,
    classes: str | Path | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    command: str = "graftcli.compare(…)",
    listen: Listener = lambda _: None,
) -> Comparison:
    """Train each cell of the grid that is not trained yet, score it on `test`, and write one table of them all.

    `asked` is what the cells have in common. A cell that is finished is taken as it is, one that was broken off goes
    on. With `overwrite`, cells that were made with other settings are made anew.
    """
    folder = Path(out) if out is not None else COMPARISON
    if budget is not None and budget != Budget() and asked.how.steps_scale != 1:
        found = f"--steps-scale is {asked.how.steps_scale:g}, and --steps or --seconds is given too."
        raise UsageError(found, "Give one of them: each says how long a cell is trained.")
    _check_place(folder)
    state_of.cache_clear()
    with locked(folder):
        for left in folder.glob(f"{SCRATCH}*"):  # of a comparison that was killed
            shutil.rmtree(left, ignore_errors=True)
        notebook = ResultCache(folder, lambda text: listen(Warned(text)))
        judge = Scorer(asked, _text(test), _text(classes), notebook)
        work = _Comparing(asked, grid, budget or Budget(), judge, notebook, folder, overwrite, command, _once(listen))
        return work.do()


def _check_place(folder: Path) -> None:
    """A comparison writes into a folder of its own."""
    if not folder.is_dir() or (folder / NOTEBOOK_FILE).exists():
        return
    others = sorted(path.name for path in folder.iterdir() if path.name not in OWN and not path.name.startswith("."))
    if others:
        named = few([f"`{name}`" for name in others])
        raise UsageError(
            f"`{folder}` holds {named}, but no {NOTEBOOK_FILE}: it is no comparison.",
            "Choose another folder with --out.",
        )


def _text(path: str | Path | None) -> str | None:
    return None if path is None else str(path)


def _once(listen: Listener) -> Listener:
    """A listener that hears each warning once, though many cells give it, and nothing of how long one cell takes."""
    heard: set[str] = set()

    def tell(event: Event) -> None:
        if not isinstance(event, TimeEstimated) and (not isinstance(event, Warned) or event.text not in heard):
            listen(event)
        if isinstance(event, Warned):
            heard.add(event.text)

    return tell


@dataclass(frozen=True)
class _Comparing:
    asked: RunConfig
    grid: Grid
    budget: Budget
    judge: Scorer
    notebook: ResultCache
    folder: Path
    overwrite: bool
    command: str
    listen: Listener

    def do(self) -> Comparison:
        eligible = EligibleMethods(self.asked, self.grid, self.draws.every[0], self.notebook)
        methods, left_out = eligible.found
        for note in left_out:
            self.listen(Warned(note))
        cells, plan = list(cells_of(methods, self.draws)), eligible.planned(methods[0])
        if self.budget.steps is not None:
            for cell in cells:
                self.asked_of(cell)  # too few steps for a method are the user's fault, and told before any is trained
        trials = [self.known(cell) for cell in cells]
        _ = self.judge.said  # so is a folder that nothing can be scored on
        for done, cell in enumerate(cells):
            if not trials[done].is_done:
                self.listen(CellStarted(cell.name, done, len(cells)))
                trials[done] = self.trial(cell)
                self.write(trials, plan, left_out)  # not before: a folder that is refused stays as it is
        found = self.write(trials, plan, left_out)
        for name in (TABLE_FILE, FACTS_FILE, REPORT_FILE):
            self.listen(FileSaved(str(self.folder / name)))
        return found

    @cached_property
    def draws(self) -> Draws:
        return draws_of(self.grid, self.folder)

    # -- a cell ---------------------------------------------------------------------------------------------------

    def run_folder(self, cell: Cell) -> Path:
        return self.folder / "cells" / cell.name

    def known(self, cell: Cell) -> CellScore:
        """What there is of a cell before anything is trained: all of it, where its run was asked for the very same."""
        method, draw, folder = cell.method, cell.draw, self.run_folder(cell)
        empty = CellScore(
            name=cell.name,
            folder=str(folder),
            method=method.label,
            student=method.student_label,
            blocks=method.blocks,
            shots=draw.shots,
            draw=draw.index,
            seed=self.asked.how.seed + draw.index,
        )
        if not (folder / RUN_FILE).exists():
            return empty
        run = read_record(folder)
        same = run["status"] == "finished" and self.notebook.knows("cells", self.made(cell, run))
        return self.filled(empty, run) if same and is_whole(folder, run) else empty

    def made(self, cell: Cell, run: Mapping[str, Any]) -> list[Any]:
        """What is noted of a cell as soon as it is finished."""
        return [cell.name, run["ended"], mark_of(self.asked_of(cell))]

    def trial(self, cell: Cell) -> CellScore:
        """The cell's numbers, of the run that is made or goes on now."""
        empty, folder = self.known(cell), self.run_folder(cell)
        try:
            asked = self.asked_of(cell)  # with a budget of seconds it is rehearsed, whose memory is not the cell's
            gc.collect()
            forget_peak()
            run = partial(
                distill, asked, out=folder, blocks=cell.method.blocks, command=self.command, listen=self.listen
            )
            try:
                run()
            except UsageError:  # it was made with other settings, and only then is it made anew
                if not self.overwrite:
                    raise
                run(overwrite=True)
        except (GateError, PairError) as fault:
            self.listen(Warned(f"{cell.name}: {fault.found}"))
            return replace(empty, fault=fault.found)
        done = read_record(folder)
        self.notebook.once("cells", self.made(cell, done), lambda: True)
        return self.filled(empty, done)

    def filled(self, empty: CellScore, run: Mapping[str, Any]) -> CellScore:
        """The cell's numbers, of its finished run."""
        result = run["result"]
        accuracy, agreement = self.judge.score(Path(empty.folder), run)
        return replace(
            empty,
            accuracy=accuracy,
            agreement=agreement,
            images=result["images"],
            steps=_steps(Path(empty.folder), run),
            params=result["params"][1],
            macs=result["macs"][1],
            seconds=result["seconds"],
            peak_memory=result["peak_memory"],
        )

    def asked_of(self, cell: Cell) -> RunConfig:
        """What the cell's run is asked for, with as many steps as its method has for this number of shots."""
        if self.budget == Budget():
            return cell.asked(self.asked)
        first = next(draw for draw in self.draws.every if draw.shots == cell.draw.shots)
        blocks, whole = cell.method.blocks, replace(self.asked, how=replace(self.asked.how, steps_scale=1.0))
        tried, own = (Cell(cell.method, draw).asked(whole) for draw in (first, cell.draw))
        hangs_on = [mark_of(tried), blocks, asdict(self.budget)]
        found = self.notebook.once(
            "paces", hangs_on, lambda: asdict(paced(tried, blocks, self.budget, self.folder, self.listen))
        )
        how = with_batch(own.how)  # a batch among the budget's settings goes before --batch
        overrides = (*how.overrides, *TypeAdapter(Paced).validate_python(found).overrides)
        return replace(own, how=replace(how, overrides=overrides))

    # -- the table ------------------------------------------------------------------------------------------------

    def write(self, trials: Sequence[CellScore], plan: PairFacts, notes: Sequence[str]) -> Comparison:
        """The table as far as it has come, in all of its forms."""
        teacher, cores = label_of(self.asked.networks.teacher), usable_cores()
        found = Comparison(
            folder=str(self.folder),
            teacher=TeacherScore(teacher, plan.params, plan.macs, self.judge.teacher),
            shots=self.draws.meaning,
            budget=self.budget.said(self.asked.how.steps_scale),
            scored=self.judge.said,
            machine=f"{cpu().name}, {cores} core{'s' * (cores > 1)}, torch {versions()['torch']}",
            command=self.command,
            notes=tuple(notes),
            lines=lines(trials),
            trials=tuple(trials),
        )
        write_json(self.folder / FACTS_FILE, comparison_json(found))
        write_bytes(self.folder / TABLE_FILE, markdown(found).encode())
        write_bytes(self.folder / REPORT_FILE, comparison_page(found).encode())
        return found


def _steps(folder: Path, run: Mapping[str, Any]) -> int:
    """How many steps a run trained for, in all of its units; what is solved at once takes none."""
    trained = {stage["name"] for stage in run["settings"]["recipe"]["stages"] if stage["optimizer"] != "least-squares"}
    found = stages(records(folder / METRICS_FILE), [stage["name"] for stage in run["settings"]["recipe"]["stages"]])
    return sum(unit.steps for stage in found if stage.name in trained for unit in stage.units)


def comparison_json(found: Comparison) -> dict[str, Any]:
    return asdict(found)
