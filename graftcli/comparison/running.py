"""Run a comparison: train one run per cell, and write one table.

compare.json   the result, as with `--json`; compare.md and report.html show it
cells.json     cached plans, budgets and scores, which the same command reuses
images/        the sampled draws
cells/NAME/    the runs, as `distill` and `partial` write them
"""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

from graftcli.comparison.budget import Budget
from graftcli.comparison.cells import CellRunner
from graftcli.comparison.compatibility import EligibleMethods, PairFacts
from graftcli.comparison.dealing import train_cells
from graftcli.comparison.fingerprint import file_stats
from graftcli.comparison.grid import Draws, Grid, cells_of, draws_of, label_of
from graftcli.comparison.profile import SCRATCH_PREFIX
from graftcli.comparison.result_cache import RESULTS_FILE, ResultCache
from graftcli.comparison.scorer import Scorer
from graftcli.distributed.world import joined
from graftcli.environment.installs import versions
from graftcli.environment.machine import cpu, usable_cores
from graftcli.errors import UsageError, few
from graftcli.events import CellStarted, Event, FileSaved, Listener, TimeEstimated, Warned
from graftcli.models.loading.model_spec import may_be_code
from graftcli.report.comparison import CellScore, Comparison, TeacherScore, markdown, method_lines
from graftcli.report.page import comparison_page
from graftcli.runs.config import RunConfig, models_json
from graftcli.runs.teacher import sized_teacher
from graftcli.store import REPORT_FILE
from graftcli.store.atomic import write_bytes, write_json
from graftcli.store.locks import locked

COMPARISON = Path("runs/compare")
TABLE_FILE, FACTS_FILE = "compare.md", "compare.json"
_EXPECTED_FILES = ("cells", "images")  # files in a folder that has no cells.json yet, after an early interruption


def run_comparison(
    config: RunConfig,
    grid: Grid,
    *,
    budget: Budget | None = None,
    test: str | Path | None = None,
    classes: str | Path | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    command: str,
    listen: Listener = lambda _: None,
) -> Comparison:
    """Train the cells of the grid, score them on `test`, and write one table.

    `config` is shared by all cells. Finished cells are reused and interrupted cells are resumed. With `overwrite`,
    cells that were trained with other settings are retrained.
    """
    folder = Path(out) if out is not None else COMPARISON
    if budget is not None and budget != Budget() and config.how.steps_scale != 1:
        found = f"--steps-scale is {config.how.steps_scale:g}, and --steps or --seconds is given too."
        raise UsageError(found, "Give only one of them: each sets the length of training.")
    with joined() as world:
        if not world.is_first:
            train_cells((), world, lambda _: None)
            return world.broadcast(cast(Comparison, None))  # of the first process
        _check_place(folder)
        file_stats.cache_clear()
        with locked(folder):
            for stale in folder.glob(f"{SCRATCH_PREFIX}*"):  # of a killed comparison
                shutil.rmtree(stale, ignore_errors=True)
            cache = ResultCache(folder, lambda text: listen(Warned(text)))
            listen = _without_repeats(listen)
            draws = draws_of(grid, folder)
            config = _sized(config, draws.every[0].folder, cache, listen)
            scorer, budget = Scorer(config, _text(test), _text(classes), cache), budget or Budget()
            cells = CellRunner(config, draws, budget, scorer, cache, folder, overwrite, command, world, listen)
            run = _ComparisonRun(config, grid, draws, cells, scorer, cache, folder, command, listen)
            return world.broadcast(run.run())


def _check_place(folder: Path) -> None:
    """Raise if the folder holds something other than a comparison."""
    if not folder.is_dir() or (folder / RESULTS_FILE).exists():
        return
    others = sorted(
        path.name for path in folder.iterdir() if path.name not in _EXPECTED_FILES and not path.name.startswith(".")
    )
    if others:
        names = few([f"`{name}`" for name in others])
        raise UsageError(
            f"`{folder}` holds {names}, but no {RESULTS_FILE}: it is not a comparison.",
            "Choose another folder with --out.",
        )


def _sized(config: RunConfig, images: Path, cache: ResultCache, listen: Listener) -> RunConfig:
    """Return the config with the size of the images, if the teacher is user code that declares no input size."""
    networks, look = config.networks, config.look
    if look.img_size is not None or not may_be_code(networks.teacher):
        return config

    def compute() -> object:
        return sized_teacher(replace(config, images=str(images)), listen)[0].look.img_size

    files = [file_stats(spec) for spec in (networks.teacher, networks.teacher_checkpoint, str(images))]
    size = cache.get_or_compute("sizes", [models_json(replace(networks, student="")), str(images), files], compute)
    return config if size is None else replace(config, look=replace(look, img_size=tuple(size)))


def _text(path: str | Path | None) -> str | None:
    return None if path is None else str(path)


def _without_repeats(listen: Listener) -> Listener:
    """Return a listener that forwards each warning only once, and no time estimates of single cells."""
    sent: set[str] = set()

    def forward(event: Event) -> None:
        if not isinstance(event, TimeEstimated) and (not isinstance(event, Warned) or event.text not in sent):
            listen(event)
        if isinstance(event, Warned):
            sent.add(event.text)

    return forward


@dataclass(frozen=True)
class _ComparisonRun:
    config: RunConfig
    grid: Grid
    draws: Draws
    cell_runner: CellRunner
    scorer: Scorer
    cache: ResultCache
    folder: Path
    command: str
    listen: Listener

    def run(self) -> Comparison:
        eligible = EligibleMethods(self.config, self.grid, self.draws.every[0], self.cache)
        methods, left_out = eligible.selection
        for note in left_out:
            self.listen(Warned(note))
        cells, plan = list(cells_of(methods, self.draws)), eligible.pair_facts(methods[0])
        if self.cell_runner.budget.steps is not None:
            for cell in cells:
                self.cell_runner.config_for(cell)  # raises before training if a method needs more steps
        scores = [self.cell_runner.stored(cell) for cell in cells]
        _ = self.scorer.description  # raises before training if the test images cannot be used for scoring
        if self.cell_runner.world.size > 1:
            self.cell_runner.train_dealt(cells, scores)
        for done, cell in enumerate(cells):
            if not scores[done].is_done and scores[done].fault is None:
                self.listen(CellStarted(cell.name, done, len(cells)))
                scores[done] = self.cell_runner.train(cell)
                self.write(scores, plan, left_out)  # only after all checks, so that a refused folder stays unchanged
        comparison = self.write(scores, plan, left_out)
        for name in (TABLE_FILE, FACTS_FILE, REPORT_FILE):
            self.listen(FileSaved(str(self.folder / name)))
        return comparison

    def write(self, scores: Sequence[CellScore], plan: PairFacts, notes: Sequence[str]) -> Comparison:
        """Write the table of the cells that are done, as JSON, Markdown and HTML."""
        teacher, cores = label_of(self.config.networks.teacher), usable_cores()
        comparison = Comparison(
            folder=str(self.folder),
            teacher=TeacherScore(teacher, plan.params, plan.macs, self.scorer.teacher_accuracy),
            shots=self.draws.meaning,
            budget=self.cell_runner.budget.describe(self.config.how.steps_scale),
            scored=self.scorer.description,
            machine=f"{cpu().name}, {cores} core{'s' * (cores > 1)}, torch {versions()['torch']}",
            command=self.command,
            notes=tuple(notes),
            lines=method_lines(scores),
            trials=tuple(scores),
        )
        write_json(self.folder / FACTS_FILE, comparison_json(comparison))
        write_bytes(self.folder / TABLE_FILE, markdown(comparison).encode())
        write_bytes(self.folder / REPORT_FILE, comparison_page(comparison).encode())
        return comparison


def comparison_json(comparison: Comparison) -> dict[str, object]:
    """The comparison as JSON, as with `--json`."""
    return asdict(comparison)
