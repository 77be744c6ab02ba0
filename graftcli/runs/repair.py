"""A finished run whose network is damaged: merged again from its trained blocks, without any training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graftcli.errors import CheckpointError, GraftError, few
from graftcli.events import FileSaved, Listener, Warned
from graftcli.graft.training.tasks import tasks
from graftcli.models.loading.tensor_file import check
from graftcli.recipe import Recipe
from graftcli.runs.config import asked_of
from graftcli.runs.running import distill
from graftcli.store import BLOCKS
from graftcli.store.run_file import RUN_FILE
from graftcli.store.run_record import command_of, is_whole, read_record


def repaired(path: Path, *, trust_code: bool = False, listen: Listener = lambda _: None) -> Path:
    """The same path; where it is a finished run with a damaged network, that is merged again from `blocks/` first."""
    if not (path / RUN_FILE).is_file():
        return path
    run = read_record(path)
    if run["status"] != "finished" or is_whole(path, run):
        return path
    command = command_of(run) or "graftcli distill …"
    fix = f"Run the command of the run again; missing blocks are retrained: {command}"
    if lost := _lost_blocks(path, run["settings"]):
        found = f"The network in `{path}` is damaged, and so {'is' if len(lost) == 1 else 'are'} {few(lost)} in it."
        raise CheckpointError(found, fix)
    chosen = ",".join(map(str, run["settings"]["blocks"]))
    try:
        asked = asked_of(path, trust_code=trust_code)
        distill(asked, out=path, blocks=chosen, command=command, listen=_quietly(listen))
    except GraftError as fault:
        found = f"The network in `{path}` is damaged, and cannot be merged again from its blocks: {fault.found}"
        raise CheckpointError(found, f"{fault.mend} {fix}" if fault.mend else fix) from fault
    return path


def _lost_blocks(folder: Path, settings: Mapping[str, Any]) -> list[str]:
    """The trained blocks that a merge needs and that are missing or damaged."""
    recipe, blocks = Recipe.model_validate(settings["recipe"]), len(settings["cuts"]["student"]) + 1
    every = tasks(recipe, blocks, settings["blocks"], settings.get("frozen", ()))
    names = [f"{task.name}.safetensors" for task in every]
    return [f"`{BLOCKS}/{name}`" for name in names if not _is_block(folder, name)]


def _is_block(folder: Path, name: str) -> bool:
    try:
        check(folder / BLOCKS / name)
    except CheckpointError:
        return False
    return True


def _quietly(listen: Listener) -> Listener:
    """Warnings alone: what was trained before is not reported as if it were trained now."""
    return lambda event: listen(event) if isinstance(event, Warned | FileSaved) else None
