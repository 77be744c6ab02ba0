"""`report`: the folders of runs -> one page, the networks asked again where a folder does not keep their answers."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftcli.environment.devices import device_named
from graftcli.errors import CheckpointError, GraftError, ImagesError, UsageError
from graftcli.events import FileSaved, Listener, Warned
from graftcli.graft.engine import weights_digest
from graftcli.models.cuts.plan import Plan
from graftcli.models.loading.trust import Untrusted
from graftcli.report import facts
from graftcli.report.disagreement import AnswersCompared, compare
from graftcli.report.facts import Facts
from graftcli.report.page import GENERATOR, page
from graftcli.report.run_view import RunView, shown
from graftcli.runs.config import RunConfig, asked_of
from graftcli.runs.loading import load
from graftcli.runs.prepare import images_of, plan_of, recipe_of
from graftcli.runs.repair import repaired
from graftcli.runs.scoring import preprocess_for
from graftcli.store import REPORT_FILE
from graftcli.store.atomic import write_bytes
from graftcli.store.run_record import read_record

_HEAD = 4096  # bytes of a page, within which it says who made it


@dataclass(frozen=True)
class Report:
    """Where the page lies, and which runs it shows."""

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
    """One page for one run, or for several compared: `out`, else report.html in the run's folder, or here for several.

    A file that is no report of graftcli's is replaced with `overwrite` alone.
    """
    folders = list(dict.fromkeys(Path(run).expanduser() for run in runs))
    if not folders:
        raise UsageError("no run is named.", "Name the folder of one: graftcli report runs/resnet34-resnet18")
    file = Path(out).expanduser() if out is not None else (folders[0] if len(folders) == 1 else Path()) / REPORT_FILE
    _check_file(file, overwrite)
    shown = [_shown(folder, trust_code, listen) for folder in folders]
    write_bytes(file, page(shown).encode(), follow=out is not None)
    listen(FileSaved(str(file)))
    return Report(str(file), tuple(map(str, folders)))


def _shown(folder: Path, trust_code: bool, listen: Listener) -> RunView:
    """What the page shows of a run: what its folder keeps, else what its networks say when they are asked again."""
    repaired(folder, trust_code=trust_code, listen=listen)
    run, kept = read_record(folder), facts.read(folder, lambda text: listen(Warned(text)))
    lacks: list[str] = []
    if kept is None:
        try:
            kept, lacks = _ask_again(folder, run, trust_code, listen)
        except Untrusted:
            raise
        except GraftError as fault:
            lacks = [f"this report lacks the plan and the pictures: {fault.found} {fault.mend}"]
    for text in lacks:
        listen(Warned(f"{folder}: {text}"))
    return shown(folder, kept, lacks)


def _check_file(file: Path, overwrite: bool) -> None:
    """Whether the path is free, holds a report, or is to be overwritten."""
    if file.is_dir():
        raise UsageError(f"--out `{file}` is a folder.", f"Name a file in it: {file / REPORT_FILE}")
    with suppress(FileNotFoundError, NotADirectoryError):
        with file.open("rb") as opened:
            ours = GENERATOR.encode() in opened.read(_HEAD)
        if not ours and not overwrite:
            raise UsageError(
                f"`{file}` is no report of graftcli's.", "Name another file with --out, or add --overwrite."
            )


def _ask_again(folder: Path, run: Mapping[str, Any], trust_code: bool, listen: Listener) -> tuple[Facts, list[str]]:
    """The run's networks built and shown its images again, and what could not be had; kept where nothing lacks."""
    asked = asked_of(folder, trust_code=trust_code)
    plan = plan_of(asked, recipe_of(asked.how))
    if run["status"] != "finished":
        return facts.gather(plan, None), []
    try:
        compared = _compared(folder, run, asked, plan, listen)
    except GraftError as fault:
        return facts.gather(plan, None), [f"this report lacks the pictures: {fault.found}"]
    found = facts.gather(plan, compared)
    try:
        facts.write(folder, found)
    except GraftError as fault:  # the page shows them all the same
        listen(Warned(f"{folder}: {fault.found}"))
    return found, []


def _compared(folder: Path, run: Mapping[str, Any], asked: RunConfig, plan: Plan, listen: Listener) -> AnswersCompared:
    """How the run's networks answer to the run's images, when all of them are still what they were."""
    preprocess = preprocess_for(plan.teacher.network, asked.look, whole=True)
    source = asked.val_images or asked.images
    images = images_of(source, preprocess, asked.how, listen)
    settings = run["settings"]
    if images.digest != settings["val_images" if asked.val_images else "images"]:
        raise ImagesError(f"the images in `{source}` are not the run's any more.", "Bring back those of the run.")
    if weights_digest(plan.teacher.network.module) != settings["teacher"]["weights"]:
        raise CheckpointError("the teacher's weights are not the run's any more.", "Bring back those of the run.")
    return compare(
        plan.teacher.network,
        load(folder, trust_code=asked.networks.trust_code),
        images,
        preprocess,
        device_named(asked.how.device),
    )
