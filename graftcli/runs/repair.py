"""Repair a finished run whose network is damaged: merge it again from the trained blocks."""

from pathlib import Path

from graftcli.errors import CheckpointError, GraftError, few
from graftcli.events import FileSaved, Listener, Warned
from graftcli.graft.training.tasks import tasks
from graftcli.models.loading.tensor_file import check
from graftcli.runs.config import recorded_config
from graftcli.runs.running import distill
from graftcli.store import BLOCKS
from graftcli.store.run_file import RUN_FILE, is_intact, read_record
from graftcli.store.run_record import RunSettings


def repair(path: Path, *, trust_code: bool = False, listen: Listener = lambda _: None) -> Path:
    """Return `path`; if it is a finished run with a damaged network, merge it again from `blocks/` first."""
    if not (path / RUN_FILE).is_file():
        return path
    run = read_record(path)
    if run.status != "finished" or is_intact(path, run):
        return path
    command = run.session.plain_command or "graftcli distill …"
    fix = f"Repeat the command of the run; missing blocks are retrained: {command}"
    if lost := _lost_blocks(path, run.settings):
        found = f"The network in `{path}` is damaged, and {few(lost)} {'is' if len(lost) == 1 else 'are'} too."
        raise CheckpointError(found, fix)
    chosen = ",".join(map(str, run.settings.blocks))
    try:
        config = recorded_config(path, trust_code=trust_code)
        distill(config, out=path, blocks=chosen, command=command, listen=_without_progress(listen))
    except GraftError as fault:
        found = f"The network in `{path}` is damaged, and merging its blocks again failed: {fault.message}"
        raise CheckpointError(found, f"{fault.fix} {fix}" if fault.fix else fix) from fault
    return path


def _lost_blocks(folder: Path, settings: RunSettings) -> list[str]:
    """Return the trained blocks that the merge needs but that are missing or damaged."""
    scheduled = tasks(settings.recipe, settings.block_count, settings.blocks, settings.frozen)
    names = [f"{task.name}.safetensors" for task in scheduled]
    return [f"`{BLOCKS}/{name}`" for name in names if not _is_intact_block(folder, name)]


def _is_intact_block(folder: Path, name: str) -> bool:
    try:
        check(folder / BLOCKS / name)
    except CheckpointError:
        return False
    return True


def _without_progress(listen: Listener) -> Listener:
    """Return a listener for warnings and saved files only: nothing is trained during a repair."""
    return lambda event: listen(event) if isinstance(event, Warned | FileSaved) else None
