"""`distill` and `partial`: networks, images and a recipe -> a run's folder with everything in it."""

import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from graftcli.environment.devices import device_named
from graftcli.environment.installs import versions
from graftcli.environment.machine import memory, usable_cores
from graftcli.errors import GraftError, MachineError, UsageError
from graftcli.events import Event, FileSaved, Listener, RunStarted, Warned
from graftcli.graft.backend.precision import Precision
from graftcli.graft.engine import Outcome, run, weights_digest
from graftcli.graft.settings import EngineSettings
from graftcli.models.network import Network
from graftcli.report.writing import write_report
from graftcli.runs.config import RunConfig, as_kept, asked_of, laid_over
from graftcli.runs.image_check import checked
from graftcli.runs.prepare import PreparedRun, ready
from graftcli.runs.result import Result, done_before, made_of, result_of, write_single
from graftcli.runs.reuse import take_over
from graftcli.runs.time_estimate import foreseeing
from graftcli.store import REPORT_FILE, Store
from graftcli.store.model_card import save_student
from graftcli.store.run_file import RUN_FILE, newest, read_run
from graftcli.store.run_record import read_record

# of memory that answers take before the disk does: the system holds a file's pages for as long as nobody else wants it
_AT_ONCE = 2**29

RUNS = Path("runs")


def distill(
    asked: RunConfig,
    *,
    out: str | Path | None = None,
    blocks: str | None = None,
    overwrite: bool = False,
    reuse: Path | None = None,
    command: str = "graftcli.distill(…)",
    listen: Listener = lambda _: None,
) -> Result:
    """Train the student (or only its `blocks`, inside the teacher) on a folder of unlabelled images, and write it.

    `reuse` is the folder of an earlier run, whose blocks are taken over where they were trained in the same way.
    """
    heard: list[str] = []
    start = ready(asked, blocks, _keeping(listen, heard.append))
    folder, single = destination(start, out)
    if single is not None and not overwrite:
        _check_free(single, folder)
    settings, about = _settings(start), _about(asked, command, heard)

    def warn(text: str) -> None:
        listen(Warned(text))

    with Store(folder, settings, overwrite=overwrite, about=about, warn=warn) as store:
        if single is not None:
            store.beside(single)
        if store.finished is not None:
            if not (damaged := store.damaged()):
                if not (folder / REPORT_FILE).exists():
                    warn(f"{folder} has no report: `graftcli report {folder}` writes it")
                return done_before(store, single, start, listen)
            store.reopen(about, f"{' and '.join(damaged)} in {folder} missing or damaged: merged again from blocks/")
        if reuse is not None:
            take_over(reuse, folder, settings, start, _keeping(listen, store.warned))
        outcome = _trained(start, store, _keeping(listen, store.warned))
        result = result_of(start, folder, outcome, store.spent)
        made = made_of(start, outcome, result, command)
        store.check_held()
        save_student(folder, outcome.merged.module, made)
        if single is not None:
            write_single(single, folder, start, listen)
            store.written(single)
        store.finish(asdict(result))
        _report(folder, start, outcome, listen)
    listen(FileSaved(str(folder)))
    return result


def partial(
    blocks: str,
    asked: RunConfig | None = None,
    *,
    given: Collection[str] | None = None,
    run_folder: str | Path | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    command: str = "graftcli.partial(…)",
    listen: Listener = lambda _: None,
) -> Result:
    """Replace only some blocks of the teacher, with the blocks that an earlier run has trained in the same way.

    What is not asked for is taken from `run_folder`, else from the newest run under ./runs. `given` names the fields of
    `asked` that count; without it all of them do.
    """
    folder = Path(run_folder) if run_folder is not None else None
    spoken = {"teacher", "student", "images"} if given is None and asked is not None else set(given or ())
    missing = [name for name in ("teacher", "student", "images") if name not in spoken]
    if asked is None or missing:
        folder = folder or newest(RUNS, _is_whole, read_record)
        if folder is None:
            raise UsageError(
                f"there is no run under ./runs from which {', '.join(missing)} could be taken.",
                "Give --teacher, --student and --images, or a run's folder with --run.",
            )
        earlier = asked_of(folder, trust_code=asked is not None and asked.networks.trust_code)
        asked = laid_over(earlier, asked, spoken) if asked is not None else earlier
    return distill(asked, out=out, blocks=blocks, overwrite=overwrite, reuse=folder, command=command, listen=listen)


def _is_whole(run: Mapping[str, Any]) -> bool:
    """Whether a run was for the whole student: a partial one took over what it was asked for."""
    return len(run["settings"]["blocks"]) == len(run["settings"]["cuts"]["student"]) + 1


def destination(start: PreparedRun, out: str | Path | None) -> tuple[Path, Path | None]:
    """The run's folder, and the single file that is wanted beside it."""
    plan = start.plan
    names = "-".join(side.network.name.replace("/", "_") for side in (plan.teacher, plan.student))
    part = "" if len(start.blocks) == len(plan.blocks) else f"-blocks-{'-'.join(map(str, start.blocks))}"
    path = Path(out) if out is not None else None
    if path is None or path.suffix not in (".safetensors", ".onnx"):
        return path or RUNS / f"{names}{part}", None
    return RUNS / f"{names}{part}", path


def _check_free(single: Path, folder: Path) -> None:
    """Whether a file may be written: what is there already must be this run's own."""
    run: dict[str, Any] = read_run(folder) if (folder / RUN_FILE).exists() else {}
    if single.exists() and str(single.absolute()) not in run.get("singles", ()):
        raise UsageError(f"`{single}` exists.", "Name another file with --out, or replace it with --overwrite.")


# -- the run ------------------------------------------------------------------------------------------------------


def _trained(start: PreparedRun, store: Store, listen: Listener) -> Outcome:
    """All stages of the recipe, with what is fixed when a run starts."""
    fixed = store.fixed(lambda: fixed_now(start, store.folder))
    _check_device(fixed["device"], store.folder)
    torch.set_num_threads(fixed["threads"])
    settings = settings_of(start, fixed)
    listen(checked(start.plan.teacher.network, start.train, start.preprocess, settings.precision.device))
    listen(_started(start, settings, fixed["threads"], store))
    told = foreseeing(start, lambda unit: store.unit(unit).step, listen)
    return run(start.plan, start.train, start.preprocess, start.recipe, settings, store, told, start.held)


def _check_device(name: str, folder: Path) -> None:
    """Whether the device that `auto` meant when the run began is here too."""
    try:
        device_named(name)
    except UsageError as err:
        found = f"`{folder}` was started on {name}, which is not available here."
        raise MachineError(found, "Resume it there, or restart it with --overwrite.") from err


def _settings(start: PreparedRun) -> dict[str, Any]:
    """All that decides the result; a run goes on only where it is the same."""
    plan, how = start.plan, start.asked.how
    return {
        "teacher": _identity(plan.teacher.network),
        "student": _identity(plan.student.network),
        "cuts": {"teacher": [c.name for c in plan.teacher.cuts], "student": [c.name for c in plan.student.cuts]},
        "blocks": list(start.blocks),
        "frozen": list(start.frozen),
        "images": start.train.digest,
        "val_images": start.held.digest if start.held is not None else None,
        "fit": asdict(start.preprocess),
        "recipe": start.recipe.model_dump(mode="json"),
        "seed": how.seed,
        "device": how.device,
        "amp": how.amp,
        "compile": how.compile,
        "cache_gb": how.cache_gb,
    }


def _identity(network: Network) -> dict[str, Any]:
    return {"name": network.name, "origin": network.origin, "weights": weights_digest(network.module)}


def _about(asked: RunConfig, command: str, warnings: Sequence[str]) -> dict[str, Any]:
    return {"warnings": list(warnings), "command": command, "asked": as_kept(asked), "versions": versions()}


def settings_of(start: PreparedRun, fixed: Mapping[str, Any]) -> EngineSettings:
    """What the engine is told of a run, with what was fixed when it started."""
    how = start.asked.how
    precision = Precision(torch.device(fixed["device"]), how.amp, how.compile)
    return EngineSettings(how.seed, precision, fixed["memory"], fixed["disk"], fixed["at_once"], start.blocks)


def fixed_now(start: PreparedRun, folder: Path) -> dict[str, Any]:
    """What depends on the moment: the same again when the run goes on."""
    wanted = start.asked.how.cache_gb
    budget = int(wanted * 1e9) if wanted is not None else (memory().free or 2**32) // 4
    return {
        "memory": max(0, budget - start.train.pixels.numel()),
        "disk": shutil.disk_usage(folder).free // 2,
        "at_once": _AT_ONCE if wanted is None else None,
        "threads": usable_cores(),
        "device": str(start.device),
    }


def _started(start: PreparedRun, settings: EngineSettings, threads: int, store: Store) -> RunStarted:
    preprocess = start.preprocess
    return RunStarted(
        teacher=start.plan.teacher.network.name,
        student=start.plan.student.network.name,
        recipe=start.recipe.name,
        blocks=start.blocks,
        images=len(start.train.pixels),
        size=preprocess.size,
        crop_pct=preprocess.crop_pct,
        interpolation=preprocess.interpolation,
        mean=preprocess.mean,
        std=preprocess.std,
        device=str(settings.precision.device),
        threads=threads,
        memory=settings.rooms()[0][1],
        seed=settings.seed,
        folder=str(store.folder),
        resumed=store.resumed,
    )


def _keeping(listen: Listener, keep: Callable[[str], None]) -> Listener:
    """A listener that passes everything on, and the text of each warning to `keep` too."""

    def tell(event: Event) -> None:
        if isinstance(event, Warned):
            keep(event.text)
        listen(event)

    return tell


# -- what comes out -----------------------------------------------------------------------------------------------


def _report(folder: Path, start: PreparedRun, outcome: Outcome, listen: Listener) -> None:
    """The run's report. The run is finished and its files are whole: no fault of a report takes that back."""
    shown = start.held or start.train
    try:
        file = write_report(folder, start.plan, outcome.merged.module, shown, start.preprocess, start.device)
    except Exception as fault:
        found = fault.found if isinstance(fault, GraftError) else f"{type(fault).__name__}: {fault}."
        listen(Warned(f"the report could not be written: {found} `graftcli report {folder}` tries again"))
    else:
        listen(FileSaved(str(file)))
