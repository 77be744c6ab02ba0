"""Train a run and write its folder: `distill` and `partial`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from graftcli.distributed.world import World, joined
from graftcli.environment.devices import device_named
from graftcli.environment.installs import versions
from graftcli.environment.process import tensor_float32, threads
from graftcli.errors import GraftError, MachineError, UsageError
from graftcli.events import Event, FileSaved, Listener, RunStarted, Warned
from graftcli.formats.options import files_in_run
from graftcli.graft.engine import Outcome, run
from graftcli.graft.settings import EngineSettings
from graftcli.graft.training.run_store import RunStore
from graftcli.report.writing import write_report
from graftcli.runs.config import RunConfig, config_json
from graftcli.runs.destination import check_free, destination, pixel_folder, single_file
from graftcli.runs.image_check import check_run_images
from graftcli.runs.job import prepare_together
from graftcli.runs.machine_settings import engine_settings, fixed_settings, on_device
from graftcli.runs.prepare import PreparedRun
from graftcli.runs.result import Result, card_facts, finished_result, result_of, write_single
from graftcli.runs.reuse import reuse_blocks
from graftcli.runs.run_images import forget_selection
from graftcli.runs.run_settings import run_settings
from graftcli.runs.time_estimate import with_time_estimate
from graftcli.store import REPORT_FILE, MemberStore, Store
from graftcli.store.model_card import save_student
from graftcli.store.pixel_store import discard
from graftcli.store.run_record import FixedSettings, Session


@dataclass(frozen=True)
class Request:
    """The arguments of a run in addition to its config; see `distill`."""

    out: str | Path | None = None
    blocks: str | None = None
    overwrite: bool = False
    reuse: Path | None = None
    command: str = "graftcli.distill(…)"


def distill(
    config: RunConfig,
    *,
    out: str | Path | None = None,
    blocks: str | None = None,
    overwrite: bool = False,
    reuse: Path | None = None,
    command: str = "graftcli.distill(…)",
    listen: Listener = lambda _: None,
) -> Result:
    """Train the student (or only its `blocks`, inside the teacher) on unlabelled images, and write it.

    `reuse` is the folder of an earlier run; its blocks are reused if they were trained with the same settings.
    """
    single_file(out)  # raises before anything is loaded
    with joined() as world:
        if not world.is_first:
            return _take_part(config, Request(out, blocks), world)
        request = Request(out, blocks, overwrite, reuse, command)
        return world.broadcast(_distill(config, request, world, listen))


def distill_in_one_process(config: RunConfig, request: Request, world: World, listen: Listener) -> Result:
    """Run `distill` in one process, `world`, independently of the other processes of its job."""
    single_file(request.out)
    return _distill(config, request, world, listen)


def _distill(config: RunConfig, request: Request, world: World, listen: Listener) -> Result:
    """Train a run in the first process of a job."""
    out, overwrite, reuse, command = request.out, request.overwrite, request.reuse, request.command
    warnings: list[str] = []
    collect = _collecting_warnings(listen, warnings.append)
    prepared = prepare_together(config, request.blocks, pixel_folder(out), world, collect)
    folder, single = destination(prepared, out)
    if single is not None and not overwrite:
        check_free(single, folder)
    settings, session = run_settings(prepared), _session(prepared.config, command, warnings)

    def warn(text: str) -> None:
        listen(Warned(text))

    with Store(folder, settings, session, overwrite=overwrite, exported=files_in_run(), warn=warn) as store:
        if single is not None:
            store.add_single(single)
        if store.finished is not None:
            if not (damaged := store.damaged()):
                if not (folder / REPORT_FILE).exists():
                    warn(f"{folder} has no report: `graftcli report {folder}` writes it")
                world.broadcast(None)
                return finished_result(store, single, prepared, listen)
            store.reopen(session, f"{' and '.join(damaged)} in {folder} missing or damaged: merging again from blocks/")
        if reuse is not None:
            reuse_blocks(reuse, folder, settings, prepared, _collecting_warnings(listen, store.add_warning))
        outcome = _train(prepared, store, world, _collecting_warnings(listen, store.add_warning))
        result = result_of(prepared, folder, outcome, store.spent)
        card = card_facts(prepared, outcome, result, command)
        store.check_held()
        save_student(folder, outcome.merged.module, card)
        if single is not None:
            write_single(single, folder, prepared, listen)
            store.record_single(single)
        store.finish(result)
        _report(folder, prepared, outcome, listen)
    for images in (prepared.train, prepared.held_out, prepared.extra):
        discard(images)
    forget_selection(pixel_folder(out))
    listen(FileSaved(str(folder)))
    return result


@dataclass(frozen=True)
class _Started:
    """What the first process of a job sends to the others about the run that it has opened."""

    folder: Path
    fixed: FixedSettings


def _take_part(config: RunConfig, request: Request, world: World) -> Result:
    """Train a run in a process that is not the first of its job. It writes no results and sends no events."""
    prepared = prepare_together(config, request.blocks, pixel_folder(request.out), world, _ignore)
    started: _Started | None = world.broadcast(None)
    if started is not None:
        fixed = on_device(started.fixed, prepared.device)
        _run_engine(prepared, fixed, MemberStore(started.folder, world.rank), world, _ignore)
    result: Result | None = world.broadcast(None)
    assert result is not None  # the first process always sends it
    return result


def _ignore(event: Event) -> None: ...


# -- the run ------------------------------------------------------------------------------------------------------


def _train(prepared: PreparedRun, store: Store, world: World, listen: Listener) -> Outcome:
    """Train all stages of the recipe, with the settings that were fixed when the run first started."""
    fixed = on_device(store.fixed(lambda: fixed_settings(prepared, store.folder, world)), prepared.device)
    _check_device(fixed.device, store.folder)
    settings = engine_settings(prepared, fixed, world)
    plan, train = prepared.plan, prepared.train
    with threads(fixed.threads), tensor_float32(settings.precision.device):
        listen(check_run_images(plan.teacher.network, train, prepared.preprocess, settings.precision.device))
    listen(_started_event(prepared, settings, fixed.threads, store))
    listen = with_time_estimate(prepared, lambda unit: store.unit(unit).step, listen)
    world.broadcast(_Started(store.folder, fixed))
    return _run_engine(prepared, fixed, store, world, listen)


def _run_engine(
    prepared: PreparedRun, fixed: FixedSettings, store: RunStore, world: World, listen: Listener
) -> Outcome:
    settings = engine_settings(prepared, fixed, world)
    with threads(fixed.threads), tensor_float32(settings.precision.device):
        plan, images, preprocess = prepared.plan, prepared.images, prepared.preprocess
        return run(plan, images, preprocess, prepared.schedule, settings, store, listen)


def _check_device(name: str, folder: Path) -> None:
    """Raise if the device on which the run started is not available."""
    try:
        device_named(name)
    except UsageError as err:
        found = f"`{folder}` was started on {name}, which is not available on this machine."
        raise MachineError(found, "Resume it on a machine with this device, or restart it with --overwrite.") from err


def _session(config: RunConfig, command: str, warnings: Sequence[str]) -> Session:
    return Session(config=config_json(config), command=command, versions=versions(), warnings=tuple(warnings))


def _started_event(prepared: PreparedRun, settings: EngineSettings, count: int, store: Store) -> RunStarted:
    preprocess = prepared.preprocess
    return RunStarted(
        teacher=prepared.plan.teacher.network.name,
        student=prepared.plan.student.network.name,
        recipe=prepared.recipe.name,
        blocks=prepared.blocks,
        images=len(prepared.train.pixels),
        size=preprocess.size,
        crop_pct=preprocess.crop_pct,
        interpolation=preprocess.interpolation,
        mean=preprocess.mean,
        std=preprocess.std,
        device=str(settings.precision.device),
        threads=count,
        memory=settings.memory_first_bytes,
        seed=settings.seed,
        folder=str(store.folder),
        resumed=store.resumed,
    )


def _collecting_warnings(listen: Listener, keep: Callable[[str], None]) -> Listener:
    """Return a listener that forwards all events and also passes the text of each warning to `keep`."""

    def forward(event: Event) -> None:
        if isinstance(event, Warned):
            keep(event.text)
        listen(event)

    return forward


# -- the report -----------------------------------------------------------------------------------------------


def _report(folder: Path, prepared: PreparedRun, outcome: Outcome, listen: Listener) -> None:
    """Write the report of the finished run; an error becomes a warning, because the run itself is complete."""
    images = prepared.held_out or prepared.train
    try:
        file = write_report(folder, prepared.plan, outcome.merged.module, images, prepared.preprocess, prepared.device)
    except Exception as fault:
        found = fault.message if isinstance(fault, GraftError) else f"{type(fault).__name__}: {fault}."
        listen(Warned(f"the report could not be written: {found} To retry, run `graftcli report {folder}`"))
    else:
        listen(FileSaved(str(file)))
