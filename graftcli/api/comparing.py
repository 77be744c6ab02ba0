"""`compare`: recipes, students, shots and draws on one teacher -> a run's folder for each cell, and one table of them.

compare.json   what was found, as `--json` tells it; compare.md and report.html show it
cells.json     what was settled before a cell was trained, and its score: the same command takes them as they are
images/        what was drawn
cells/NAME/    the runs, as `distill` and `partial` leave them
"""

import gc
import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from graftcli.api.asked import Asked, as_kept, plan_of, recipe_of, teacher_of
from graftcli.api.cells import Cell, Draws, Grid, Method, cells_of, draws_of, label_of, methods_of
from graftcli.api.loading import network_of
from graftcli.api.pacing import Budget, Paced, paced
from graftcli.api.running import Result, distill
from graftcli.api.scoring import Scoring, scoring_on
from graftcli.environment.installs import versions
from graftcli.environment.machine import cpu, forget_peak, usable_cores
from graftcli.errors import CheckpointError, GateError, PairError, UsageError
from graftcli.events import Entered, Event, Listener, Saved, Warned
from graftcli.graft.stages import tasks
from graftcli.recipe import Recipe, check_units
from graftcli.report.compared import Comparison, Measure, Trial, lines, markdown
from graftcli.report.page import comparison_page
from graftcli.store import REPORT_FILE, locked
from graftcli.store.runs import RUN_FILE, read_run
from graftcli.store.written import plain, write_bytes, write_json

COMPARISON = Path("runs/compare")
TABLE_FILE, FACTS_FILE, CELLS_FILE = "compare.md", "compare.json", "cells.json"
_FORMAT = 1


def compare(
    asked: Asked,
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
    with locked(folder):
        work = _Comparing(
            asked,
            grid,
            budget or Budget(),
            str(test) if test is not None else None,
            str(classes) if classes is not None else None,
            folder,
            overwrite,
            command,
            _once(listen),
        )
        return work.do()


def _once(listen: Listener) -> Listener:
    """A listener that hears each warning once, though many cells give it."""
    heard: set[str] = set()

    def tell(event: Event) -> None:
        if not isinstance(event, Warned) or event.text not in heard:
            listen(event)
        if isinstance(event, Warned):
            heard.add(event.text)

    return tell


@dataclass(frozen=True)
class _Comparing:
    asked: Asked
    grid: Grid
    budget: Budget
    test: str | None
    classes: str | None
    folder: Path
    overwrite: bool
    command: str
    listen: Listener
    left_out: list[str] = field(default_factory=list)

    def do(self) -> Comparison:
        methods = self.possible(methods_of(self.grid, self.blocks_of))
        cells = list(cells_of(methods, self.draws))
        trials = [self.before(cell) for cell in cells]
        for done, cell in enumerate(cells):
            self.listen(Entered(cell.name, done, len(cells)))
            trials[done] = self.trial(cell)
            found = self.write(trials)
        for name in (TABLE_FILE, FACTS_FILE, REPORT_FILE):
            self.listen(Saved(str(self.folder / name)))
        return found

    # -- what there is to do --------------------------------------------------------------------------------------

    @cached_property
    def draws(self) -> Draws:
        return draws_of(self.grid, self.folder)

    def blocks_of(self, student: str) -> int:
        return len(self.plan_of(Method(self.grid.recipes[0], student)))

    def plan_of(self, method: Method) -> Sequence[object]:
        """The blocks of the two networks; what keeps the method from being done is raised."""
        asked = Cell(method, self.draws.every[0]).asked(self.asked)
        recipe = recipe_of(asked.how)
        plan = plan_of(asked, recipe)
        check_units(recipe, len(plan.blocks))
        self.kept.setdefault(
            "teacher",
            {"name": label_of(self.asked.networks.teacher), "params": plan.teacher.params, "macs": plan.teacher.macs},
        )
        return plan.blocks

    def possible(self, methods: Sequence[Method]) -> list[Method]:
        """The methods that can be done. A student that goes with some recipe may go without the others."""
        for recipe in self.grid.recipes:
            recipe_of(replace(self.asked.how, recipe=recipe))  # a fault in one of them is the user's, whatever else
        found, refused = [], []
        for method in methods:
            cells = cells_of([method], self.draws)
            if "teacher" in self.kept and any((self.run_folder(cell) / RUN_FILE).exists() for cell in cells):
                found.append(method)  # as it has begun, it can be done
                continue
            try:
                self.plan_of(method)
                found.append(method)
            except (PairError, UsageError, CheckpointError) as problem:
                refused.append((method, problem))
        for method, fault in refused:
            if method.student not in {one.student for one in found}:
                raise fault
            self.left_out.append(f"left out: {method.label} with {method.student_label}: {fault.found}")
            self.listen(Warned(self.left_out[-1]))
        return found

    # -- a cell ---------------------------------------------------------------------------------------------------

    def run_folder(self, cell: Cell) -> Path:
        return self.folder / "cells" / cell.name

    def before(self, cell: Cell) -> Trial:
        method, draw = cell.method, cell.draw
        return Trial(
            name=cell.name,
            folder=str(self.run_folder(cell)),
            method=method.label,
            student=method.student_label,
            blocks=method.blocks,
            shots=draw.shots,
            draw=draw.index,
            seed=self.asked.how.seed + draw.index,
        )

    def trial(self, cell: Cell) -> Trial:
        """The cell's numbers: of its finished run, or of the run that is made or goes on now."""
        asked, empty = self.asked_of(cell), self.before(cell)
        result = self.finished(cell, asked)
        if result is None:
            gc.collect()
            forget_peak()
            try:
                result = distill(
                    asked,
                    out=self.run_folder(cell),
                    blocks=cell.method.blocks,
                    overwrite=self.overwrite,
                    command=self.command,
                    listen=self.listen,
                )
            except (GateError, PairError) as fault:
                self.listen(Warned(f"{cell.name}: {fault.found}"))
                return replace(empty, fault=fault.found)
        accuracy, agreement = self.score(cell) if self.test is not None else (None, result.agreement)
        return replace(
            empty,
            accuracy=accuracy,
            agreement=agreement,
            images=result.images,
            steps=_steps(read_run(self.run_folder(cell))),
            params=result.params[1],
            macs=result.macs[1],
            seconds=result.seconds,
            peak_memory=result.peak_memory,
        )

    def finished(self, cell: Cell, asked: Asked) -> Result | None:
        """What came out of the cell before, where it was asked for the very same; its networks are not built for it."""
        folder = self.run_folder(cell)
        if not (folder / RUN_FILE).exists():
            return None
        run = read_run(folder)
        if run["status"] != "finished" or run["sessions"][-1].get("asked") != plain(as_kept(asked)):
            return None
        return TypeAdapter(Result).validate_python(run["result"])

    def asked_of(self, cell: Cell) -> Asked:
        """What the cell's run is asked for, with as many steps as its method has for this number of shots."""
        if self.budget == Budget():
            return cell.asked(self.asked)
        first = next(draw for draw in self.draws.every if draw.shots == cell.draw.shots)
        whole = replace(self.asked, how=replace(self.asked.how, steps_scale=1.0))
        asked = Cell(cell.method, first).asked(whole)
        mark = _mark(replace(asked, how=replace(asked.how, jobs=None)), cell.method.blocks, self.budget)
        paces = self.kept.setdefault("paces", {})
        if mark not in paces:
            found = paced(asked, cell.method.blocks, self.budget, self.folder, self.listen)
            paces[mark] = plain({"method": cell.method.name, "shots": first.shots, **asdict(found)})
            self.keep()
        return cell.asked(whole, TypeAdapter(Paced).validate_python(paces[mark]).overrides)

    # -- scores ---------------------------------------------------------------------------------------------------

    @cached_property
    def scoring(self) -> Scoring:
        assert self.test is not None
        teacher = teacher_of(self.asked)
        how = self.asked.how
        empty = scoring_on(self.test, teacher, self.asked.look, classes=self.classes, jobs=how.jobs, device=how.device)
        return empty.beside(teacher)

    def score(self, cell: Cell) -> tuple[float | None, float | None]:
        """Accuracy and agreement on the test images, of a run that is scored once."""
        scores = self.kept.setdefault("scores", {})
        of = {"ended": read_run(self.run_folder(cell))["ended"], "test": self.test, "classes": self.classes}
        if scores.get(cell.name, {}).get("of") != of:
            found = self.scoring.score(network_of(str(self.run_folder(cell)), unsafe=True))  # its code has just run
            scores[cell.name] = {
                "of": of,
                "accuracy": found.accuracy.top1.share if found.accuracy else None,
                "agreement": found.likeness.agreement.share if found.likeness else None,
            }
            self.keep()
        return scores[cell.name]["accuracy"], scores[cell.name]["agreement"]

    def teacher(self) -> Measure:
        known = self.kept["teacher"]
        of = {"test": self.test, "classes": self.classes}
        if self.test is not None and known.get("of") != of:
            found = self.scoring.score(teacher_of(self.asked))
            rule = self.scoring.labels.rule if self.scoring.labels else None
            known |= {
                "of": of,
                "accuracy": found.accuracy.top1.share if found.accuracy else None,
                "tested": len(self.scoring.images.pixels),
                "rule": rule,
            }
            self.keep()
        return Measure(known["name"], known["params"], known["macs"], known.get("accuracy") if self.test else None)

    # -- what is kept and written ---------------------------------------------------------------------------------

    @cached_property
    def kept(self) -> dict[str, Any]:
        with suppress(OSError, ValueError, KeyError, TypeError):
            found: dict[str, Any] = json.loads((self.folder / CELLS_FILE).read_text(encoding="utf-8"))
            if found["format"] == _FORMAT:
                return found
        return {"format": _FORMAT}

    def keep(self) -> None:
        write_json(self.folder / CELLS_FILE, self.kept)

    def write(self, trials: Sequence[Trial]) -> Comparison:
        """The table as far as it has come, in all of its forms."""
        teacher = self.teacher()
        found = Comparison(
            folder=str(self.folder),
            teacher=teacher,
            shots=self.draws.meaning,
            budget=self.budget_said(),
            scored=self.scored_said(),
            machine=f"{cpu().name}, {usable_cores()} cores, torch {versions()['torch']}",
            command=self.command,
            notes=tuple(self.left_out),
            lines=lines(trials),
            trials=tuple(trials),
        )
        write_json(self.folder / FACTS_FILE, comparison_json(found))
        write_bytes(self.folder / TABLE_FILE, markdown(found).encode())
        write_bytes(self.folder / REPORT_FILE, comparison_page(found).encode())
        return found

    def budget_said(self) -> str:
        scale = self.asked.how.steps_scale
        if self.budget.steps is not None:
            return f"{self.budget.steps:,} steps a cell, shared out among its units as the recipe has it"
        if self.budget.seconds is not None:
            return (
                f"{self.budget.seconds:g} s a cell: as many steps as were expected to end in time after a rehearsal"
                " of a few, which is not counted; all draws of a method have the same number"
            )
        return "each recipe's own steps" if scale == 1 else f"{scale:g} of each recipe's own steps"

    def scored_said(self) -> str:
        if self.test is None:
            return "agreement: with the teacher, on images that the run held out; accuracy: no --test images were given"
        known = self.kept["teacher"]
        rule = f"; classes: {known['rule']}" if known["rule"] else "; it has no class folders, so no accuracy"
        return f"accuracy and agreement with the teacher: on {known['tested']:,} images of {self.test}{rule}"


def _mark(asked: Asked, blocks: str | None, budget: Budget) -> str:
    """What a number of steps hangs on, in short."""
    told = json.dumps(plain([as_kept(asked), blocks, asdict(budget)]), sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _steps(run: dict[str, Any]) -> int:
    """How many steps a run trained for, in all of its units."""
    settings, result = run["settings"], run["result"]
    recipe = Recipe.model_validate(settings["recipe"])
    images = result["images"] - (result["held_out"] if settings["val_images"] is None else 0)
    every = tasks(recipe, len(settings["cuts"]["student"]) + 1, settings["blocks"])
    return sum(task.steps(images) for task in every)


def comparison_json(found: Comparison) -> dict[str, Any]:
    return asdict(found)
