"""`report`: the folders of runs -> one page, the networks asked again where a folder does not keep their answers."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from graftcli.devices import device_named
from graftcli.errors import GraftError, UsageError
from graftcli.events import Listener, Saved, Warned
from graftcli.loading import load
from graftcli.report import facts
from graftcli.report.page import GENERATOR, write_page
from graftcli.running import asked_of, images_of, plan_of, recipe_of
from graftcli.runs import read_run
from graftcli.scoring import fit_for
from graftcli.store import REPORT_FILE

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
    told: dict[Path, str] = {}
    for folder in folders:
        read_run(folder)
        if facts.read(folder) is None:
            try:
                _ask_again(folder, listen)
            except GraftError as fault:
                told[folder] = f"this report lacks the plan and the pictures: {fault.found}"
                listen(Warned(f"{folder}: {told[folder]}"))
    write_page(folders, file, told)
    listen(Saved(str(file)))
    return Report(str(file), tuple(map(str, folders)))


def _check_file(file: Path, overwrite: bool) -> None:
    """Whether the path is free, holds a report, or is to be overwritten."""
    if file.is_dir():
        raise UsageError(f"--out `{file}` is a folder.", f"Name a file in it: {file / REPORT_FILE}")
    with suppress(FileNotFoundError):
        with file.open("rb") as opened:
            ours = GENERATOR.encode() in opened.read(_HEAD)
        if not ours and not overwrite:
            raise UsageError(
                f"`{file}` is no report of graftcli's.", "Name another file with --out, or add --overwrite."
            )


def _ask_again(folder: Path, listen: Listener) -> None:
    """Build the run's networks, show them its images, and keep what they answer in its folder."""
    asked = asked_of(folder)
    plan = plan_of(asked, recipe_of(asked.how))
    fit = fit_for(plan.teacher.network, asked.look, whole=True)
    images = images_of(asked.val_images or asked.images, fit, asked.how, listen)
    finished = read_run(folder)["status"] == "finished"
    result = load(folder) if finished else None
    facts.write(folder, facts.gather(plan, result, images, fit, device_named(asked.how.device)))
