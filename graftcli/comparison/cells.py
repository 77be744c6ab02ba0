"""The cells of a comparison: each is one run, which is trained, resumed or reused, and scored."""

import gc
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter

from graftcli.comparison.budget import Budget, BudgetedRecipe, fit_to_budget
from graftcli.comparison.dealing import CellJob, train_cell, train_cells
from graftcli.comparison.fingerprint import fingerprint
from graftcli.comparison.grid import Cell, Draws
from graftcli.comparison.result_cache import ResultCache
from graftcli.comparison.scorer import Scorer
from graftcli.distributed.world import World
from graftcli.environment.machine import reset_peak_memory
from graftcli.events import Listener, Warned
from graftcli.report.comparison import CellScore
from graftcli.report.run_view import read_metrics, stages
from graftcli.runs.config import RunConfig
from graftcli.runs.running import Request
from graftcli.store import METRICS_FILE
from graftcli.store.run_file import RUN_FILE, is_intact, read_record
from graftcli.store.run_record import RunRecord


@dataclass(frozen=True)
class CellRunner:
    """Trains the cells of a comparison, and reads the scores of those that are finished."""

    config: RunConfig  # shared by all cells
    draws: Draws
    budget: Budget
    scorer: Scorer
    cache: ResultCache
    folder: Path  # of the comparison
    overwrite: bool
    command: str
    world: World
    listen: Listener

    def stored(self, cell: Cell) -> CellScore:
        """Return the score of a cell before training: complete if its run has finished with the same config."""
        method, draw, folder = cell.method, cell.draw, self.folder / "cells" / cell.name
        score = CellScore(
            name=cell.name,
            folder=str(folder),
            method=method.label,
            student=method.student_label,
            blocks=method.blocks,
            shots=draw.shots,
            draw=draw.index,
            seed=self.config.how.seed + draw.index,
        )
        if not (folder / RUN_FILE).exists():
            return score
        run = read_record(folder)
        is_current = run.status == "finished" and self.cache.has("cells", self._key(cell, run))
        return self._with_results(score, run) if is_current and is_intact(folder, run) else score

    def _key(self, cell: Cell, run: RunRecord) -> list[object]:
        """Return what identifies a finished cell in the cache."""
        return [cell.name, run.ended, fingerprint(self.config_for(cell))]

    def train(self, cell: Cell) -> CellScore:
        """Train or resume the run of a cell, and return its score."""
        job = self._job(cell, 0)  # before the reset, so that the memory of a profiling run is not counted
        gc.collect()
        reset_peak_memory()
        return self._scored(cell, train_cell(job, self.world.single_process, self.listen))

    def train_dealt(self, cells: Sequence[Cell], scores: list[CellScore]) -> None:
        """Train the unfinished cells in all processes of the job, and set their scores."""
        jobs = [self._job(cell, number) for number, cell in enumerate(cells) if not scores[number].is_done]
        for number, fault in train_cells(jobs, self.world, self.listen).items():
            scores[number] = self._scored(cells[number], fault)

    def _job(self, cell: Cell, number: int) -> CellJob:
        folder = self.folder / "cells" / cell.name
        return CellJob(
            number,
            self.config_for(cell),
            Request(folder, cell.method.blocks, self.overwrite, None, self.command),
        )

    def _scored(self, cell: Cell, fault: str | None) -> CellScore:
        """Return the score of a cell after training; if it failed, only the reason."""
        score = self.stored(cell)
        if fault is not None:
            self.listen(Warned(f"{cell.name}: {fault}"))
            return replace(score, fault=fault)
        record = read_record(Path(score.folder))
        self.cache.get_or_compute("cells", self._key(cell, record), lambda: True)
        return self._with_results(score, record)

    def _with_results(self, score: CellScore, run: RunRecord) -> CellScore:
        """Return the score with the results of the finished run."""
        result = run.result
        assert result is not None  # the run is finished
        accuracy, agreement = self.scorer.score(Path(score.folder), run)
        return replace(
            score,
            accuracy=accuracy,
            agreement=agreement,
            images=result.images,
            steps=_steps(Path(score.folder), run),
            params=result.params[1],
            macs=result.macs[1],
            seconds=result.seconds,
            peak_memory=result.peak_memory,
        )

    def config_for(self, cell: Cell) -> RunConfig:
        """Return the config of a cell's run, with the steps that the budget allows.

        All draws of a method with the same number of shots get the steps of its first draw.
        """
        if self.budget == Budget():
            return cell.config(self.config)
        first = next(draw for draw in self.draws.every if draw.shots == cell.draw.shots)
        blocks, shared = cell.method.blocks, replace(self.config, how=replace(self.config.how, steps_scale=1.0))
        profiled, config = (Cell(cell.method, draw).config(shared) for draw in (first, cell.draw))
        inputs, world = [fingerprint(profiled), blocks, asdict(self.budget)], self.world.single_process

        def fit() -> dict[str, object]:
            return _as_json(fit_to_budget(profiled, blocks, self.budget, self.folder, self.listen, world))

        budgeted = self.cache.get_or_compute("paces", inputs, fit)
        recipe = TypeAdapter(BudgetedRecipe).validate_python(budgeted).recipe
        return replace(config, how=replace(config.how, recipe=recipe, overrides=(), batch=None))


def _steps(folder: Path, run: RunRecord) -> int:
    """Return the training steps of a run over all tasks; tasks that are solved by least squares have none."""
    recipe_stages = run.settings.recipe.stages
    trained = {stage.name for stage in recipe_stages if stage.optimizer != "least-squares"}
    curves = stages(read_metrics(folder / METRICS_FILE), [stage.name for stage in recipe_stages])
    return sum(unit.steps for stage in curves if stage.name in trained for unit in stage.units)


def _as_json(budgeted: BudgetedRecipe) -> dict[str, object]:
    return {**asdict(budgeted), "recipe": budgeted.recipe.model_dump(mode="json")}
