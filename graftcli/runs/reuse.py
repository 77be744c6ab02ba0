"""Reuse trained blocks of an earlier run, so that they are not trained again."""

from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from graftcli.errors import CheckpointError
from graftcli.events import Listener, Warned
from graftcli.graft.schedule import Schedule, schedule_of
from graftcli.models.loading.tensor_file import check
from graftcli.recipe import Recipe, Stage
from graftcli.runs.prepare import PreparedRun
from graftcli.store.atomic import plain, write_bytes
from graftcli.store.run_record import read_record

_COMPARED_APART = (
    "blocks",
    "frozen",
    "recipe",
    "cache_gb",
)  # settings that may differ, or that `_matching_stages` compares


def reuse_blocks(
    earlier: Path, folder: Path, settings: Mapping[str, Any], prepared: PreparedRun, listen: Listener
) -> None:
    """Copy the blocks that an earlier run trained alone, with the same settings; damaged blocks are not copied."""
    before, now = read_record(earlier)["settings"], plain(settings)
    if any(before.get(key) != now[key] for key in now if key not in _COMPARED_APART):
        return
    names = (stage.name for stage in _matching_stages(Recipe.model_validate(before["recipe"]), before, prepared))
    for name in (f"{stage}-{block}.safetensors" for stage in names for block in prepared.blocks):
        source, target = earlier / "blocks" / name, folder / "blocks" / name
        if source.exists() and not target.exists() and _is_whole(source, listen):
            target.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(target, source.read_bytes())


def _is_whole(block: Path, listen: Listener) -> bool:
    try:
        check(block)
    except CheckpointError as damage:
        listen(Warned(f"{damage.message} The block is retrained."))
        return False
    return True


def _matching_stages(earlier: Recipe, before: Mapping[str, Any], prepared: PreparedRun) -> list[Stage]:
    """Return the leading stages that both recipes share, in which each block is trained alone on the same views."""
    now = prepared.recipe
    if any(getattr(earlier, key) != getattr(now, key) for key in ("init", "adapters", "freeze", "views")):
        return []
    blocks, frozen = before["blocks"], before.get("frozen", ())
    schedule = schedule_of(earlier, prepared.schedule.images, len(prepared.plan.blocks), blocks, frozen)
    pairs = zip(_training_inputs(schedule), _training_inputs(prepared.schedule), strict=False)
    shared = [first[0] for first, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]
    return list(takewhile(lambda stage: stage.train == "blocks" and stage.input == "teacher", shared))


def _training_inputs(schedule: Schedule) -> list[tuple[Stage, int | None, int]]:
    """Return each stage with its views per image and synthetic images, which both depend on the longest stage."""
    views, augment = schedule.views, schedule.recipe.views.augment
    return [(stage, views.get(stage.augment or augment), schedule.synthetic) for stage in schedule.recipe.stages]
