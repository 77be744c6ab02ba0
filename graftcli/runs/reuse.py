"""Reuse trained blocks of an earlier run, so that they are not trained again."""

from itertools import takewhile
from pathlib import Path

from graftcli.errors import CheckpointError
from graftcli.events import Listener, Warned
from graftcli.graft.schedule import Schedule, schedule_of
from graftcli.models.loading.tensor_file import check
from graftcli.recipe import Stage
from graftcli.runs.prepare import PreparedRun
from graftcli.store.atomic import write_bytes
from graftcli.store.run_file import read_record
from graftcli.store.run_record import RunSettings

# settings that may differ, or that `_matching_stages` compares
_COMPARED_APART = ("blocks", "frozen", "recipe", "cache_gb", "device_cache_gb")


def reuse_blocks(earlier: Path, folder: Path, now: RunSettings, prepared: PreparedRun, listen: Listener) -> None:
    """Copy the blocks that an earlier run trained separately with the same settings; damaged blocks are skipped."""
    before = read_record(earlier).settings
    apart = {key: getattr(now, key) for key in _COMPARED_APART}
    if before.model_copy(update=apart) != now:
        return
    names = (stage.name for stage in _matching_stages(before, prepared))
    for name in (f"{stage}-{block}.safetensors" for stage in names for block in prepared.blocks):
        source, target = earlier / "blocks" / name, folder / "blocks" / name
        if source.exists() and not target.exists() and _is_intact(source, listen):
            target.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(target, source.read_bytes())


def _is_intact(block: Path, listen: Listener) -> bool:
    try:
        check(block)
    except CheckpointError as damage:
        listen(Warned(f"{damage.message} The block is retrained."))
        return False
    return True


def _matching_stages(before: RunSettings, prepared: PreparedRun) -> list[Stage]:
    """Return the first stages that both recipes share, if they train each block separately on the same views."""
    earlier, now = before.recipe, prepared.recipe
    if any(getattr(earlier, key) != getattr(now, key) for key in ("init", "adapters", "freeze", "views")):
        return []
    images, blocks = prepared.schedule.images, len(prepared.plan.blocks)
    schedule = schedule_of(earlier, images, blocks, before.blocks, before.frozen)
    pairs = zip(_training_inputs(schedule), _training_inputs(prepared.schedule), strict=False)
    shared = [first[0] for first, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]
    return list(takewhile(lambda stage: stage.train == "blocks" and stage.input == "teacher", shared))


def _training_inputs(schedule: Schedule) -> list[tuple[Stage, int | None, int]]:
    """Return each stage with its views per image and synthetic images, which both depend on the longest stage."""
    views, augment = schedule.views, schedule.recipe.views.augment
    return [(stage, views.get(stage.augment or augment), schedule.synthetic) for stage in schedule.recipe.stages]
