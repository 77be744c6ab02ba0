"""Blocks that an earlier run trained in the same way need not be trained again."""

from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from graftcli.errors import CheckpointError
from graftcli.events import Listener, Warned
from graftcli.graft.data.view_counts import looks, synthetic
from graftcli.graft.training.tasks import tasks
from graftcli.models.loading.tensor_file import check
from graftcli.recipe import Recipe, Stage
from graftcli.runs.prepare import PreparedRun, trained_on
from graftcli.store.atomic import plain, write_bytes
from graftcli.store.run_record import read_record

_ELSEWHERE = ("blocks", "frozen", "recipe", "cache_gb")  # what may differ, or is compared by itself


def take_over(earlier: Path, folder: Path, settings: Mapping[str, Any], start: PreparedRun, listen: Listener) -> None:
    """Blocks that an earlier run trained each alone, in the same way, are finished here too; no damaged ones."""
    before, now = read_record(earlier)["settings"], plain(settings)
    if any(before.get(key) != now[key] for key in now if key not in _ELSEWHERE):
        return
    names = (stage.name for stage in _alike(Recipe.model_validate(before["recipe"]), before, start))
    for name in (f"{stage}-{block}.safetensors" for stage in names for block in start.blocks):
        source, target = earlier / "blocks" / name, folder / "blocks" / name
        if source.exists() and not target.exists() and _is_whole(source, listen):
            target.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(target, source.read_bytes())


def _is_whole(block: Path, listen: Listener) -> bool:
    try:
        check(block)
    except CheckpointError as damage:
        listen(Warned(f"{damage.found} The block is trained again."))
        return False
    return True


def _alike(earlier: Recipe, before: Mapping[str, Any], start: PreparedRun) -> list[Stage]:
    """The stages with which both recipes begin, in which a block depends on no other block, and sees the same."""
    now = start.recipe
    if any(getattr(earlier, key) != getattr(now, key) for key in ("init", "adapters", "freeze", "views")):
        return []
    seen = (
        _seen(earlier, before["blocks"], before.get("frozen", ()), start),
        _seen(now, start.blocks, start.frozen, start),
    )
    pairs = zip(*seen, strict=False)
    same = [first[0] for first, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]
    return list(takewhile(lambda stage: stage.train == "blocks" and stage.input == "teacher", same))


def _seen(
    recipe: Recipe, blocks: Sequence[int], frozen: Sequence[int], start: PreparedRun
) -> list[tuple[Stage, int | None, int]]:
    """Of each stage the views an image, and the synthetic images: both may hang on the longest stage's length."""
    every, images = tasks(recipe, len(start.plan.blocks), blocks, frozen), trained_on(start)
    views, made = looks(recipe, every, images), synthetic(recipe, every, images)
    return [(stage, views.get(stage.augment or recipe.views.augment), made) for stage in recipe.stages]
