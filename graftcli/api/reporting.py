"""`graftcli.report`: write an HTML report of one or several runs; predictions that are not stored are recomputed."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from graftcli.environment.devices import device_named
from graftcli.errors import CheckpointError, GraftError, ImagesError, UsageError
from graftcli.events import FileSaved, Listener, Warned
from graftcli.formats.loading import load
from graftcli.graft.engine import weights_digest
from graftcli.models.cuts.plan import Plan
from graftcli.models.loading.trust import Untrusted
from graftcli.report import facts
from graftcli.report.disagreement import PredictionComparison, compare
from graftcli.report.facts import Facts
from graftcli.report.page import GENERATOR, page
from graftcli.report.run_view import RunView, load_run_view
from graftcli.runs.config import RunConfig, recorded_config
from graftcli.runs.prepare import plan_of, recipe_of
from graftcli.runs.repair import repair
from graftcli.runs.run_images import images_of, training_images
from graftcli.runs.scoring import preprocess_for
from graftcli.store import REPORT_FILE
from graftcli.store.atomic import write_bytes
from graftcli.store.run_file import read_record
from graftcli.store.run_record import RunRecord

_HEAD_BYTES = 4096  # of a page; they contain its generator


@dataclass(frozen=True)
class Report:
    """The path of a page, and the runs that it shows."""

    file: str
    runs: tuple[str, ...]


def report(
    runs: Sequence[str | Path],
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    trust_code: bool = False,
    listen: Listener = lambda _: None,
) -> Report:
    """Write a report of one run, or one that compares several.

    Parameters:
        runs: Folders of runs.
        out: The file. Default: report.html in the folder of the run, or in the current folder for several runs.
        overwrite: Replace a file that is not a report of graftcli.
        trust_code: Run Python files that a saved network names, even if they changed.
        listen: Called with every event; see ``graftcli.events``.

    Returns:
        The path of the report, and the folders of the runs.

    Raises:
        UsageError: No run is given, or the file exists and is not a report.
    """
    folders = list(dict.fromkeys(Path(run).expanduser() for run in runs))
    if not folders:
        raise UsageError("no run is given.", "Give the folder of one: graftcli report runs/resnet34-resnet18")
    file = Path(out).expanduser() if out is not None else (folders[0] if len(folders) == 1 else Path()) / REPORT_FILE
    _check_file(file, overwrite)
    views = [_run_view(folder, trust_code, listen) for folder in folders]
    write_bytes(file, page(views).encode(), follow=out is not None)
    listen(FileSaved(str(file)))
    return Report(str(file), tuple(map(str, folders)))


def _run_view(folder: Path, trust_code: bool, listen: Listener) -> RunView:
    """Return what the page shows for a run: the facts stored in it, else recomputed ones."""
    repair(folder, trust_code=trust_code, listen=listen)
    run, stored = read_record(folder), facts.read(folder, lambda text: listen(Warned(text)))
    gaps: list[str] = []
    if stored is None:
        try:
            stored, gaps = _recompute(folder, run, trust_code, listen)
        except Untrusted:
            raise
        except GraftError as error:
            gaps = [f"this report lacks the plan and the images: {error.message} {error.fix}"]
    for text in gaps:
        listen(Warned(f"{folder}: {text}"))
    return load_run_view(folder, stored, gaps)


def _check_file(file: Path, overwrite: bool) -> None:
    """Raise if the path is a folder, or is a file that is not a report and may not be overwritten."""
    if file.is_dir():
        raise UsageError(f"--out `{file}` is a folder.", f"Give a file in it: {file / REPORT_FILE}")
    with suppress(FileNotFoundError, NotADirectoryError):
        with file.open("rb") as opened:
            is_report = GENERATOR.encode() in opened.read(_HEAD_BYTES)
        if not is_report and not overwrite:
            raise UsageError(
                f"`{file}` is not a report of graftcli.", "Name another file with --out, or add --overwrite."
            )


def _recompute(folder: Path, run: RunRecord, trust_code: bool, listen: Listener) -> tuple[Facts, list[str]]:
    """Recompute the facts of a run from its networks and images, and store them; also return what is missing."""
    config = recorded_config(folder, trust_code=trust_code)
    plan = plan_of(config, recipe_of(config.how))
    if run.status != "finished":
        return facts.gather(plan, None), []
    try:
        predictions = _compare_predictions(folder, run, config, plan, listen)
    except GraftError as error:
        return facts.gather(plan, None), [f"this report lacks the images: {error.message}"]
    computed = facts.gather(plan, predictions)
    try:
        facts.write(folder, computed)
    except GraftError as error:  # the page shows warnings anyway
        listen(Warned(f"{folder}: {error.message}"))
    return computed, []


def _compare_predictions(
    folder: Path, run: RunRecord, config: RunConfig, plan: Plan, listen: Listener
) -> PredictionComparison:
    """Compare the predictions of the run's networks on its images; raise if any of them have changed."""
    preprocess = preprocess_for(plan.teacher.network, config.look, whole=True)
    source = config.val_images or config.images
    if config.val_images is not None:
        images = images_of(source, preprocess, config.how, listen)
    else:
        images = training_images(config, plan.teacher.network, preprocess, listen)
    settings = run.settings
    if images.digest != (settings.val_images if config.val_images else settings.images):
        raise ImagesError(f"the images in `{source}` have changed since the run.", "Restore the images of the run.")
    if weights_digest(plan.teacher.network.module) != settings.teacher.weights:
        raise CheckpointError(
            "the weights of the teacher have changed since the run.", "Restore the weights of the run."
        )
    return compare(
        plan.teacher.network,
        load(folder, trust_code=config.networks.trust_code),
        images,
        preprocess,
        device_named(config.how.device),
    )
