"""Blocks that an earlier run trained in the same way need not be trained again."""

from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from graftcli.store.runs import read_run
from graftcli.store.written import plain, write_bytes

_ELSEWHERE = ("blocks", "recipe", "cache_gb")  # what may differ, or is compared by itself


def take_over(earlier: Path, folder: Path, settings: Mapping[str, Any], chosen: Sequence[int]) -> None:
    """Blocks that an earlier run trained each alone, in the same way, are finished here too."""
    theirs, ours = read_run(earlier)["settings"], plain(settings)
    if any(theirs.get(key) != ours[key] for key in ours if key not in _ELSEWHERE):
        return
    names = (stage["name"] for stage in _alike(theirs["recipe"], ours["recipe"]))
    for name in (f"{stage}-{block}.safetensors" for stage in names for block in chosen):
        source, target = earlier / "blocks" / name, folder / "blocks" / name
        if source.exists() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(target, source.read_bytes())


def _alike(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The stages with which both recipes begin, and in which a block depends on no other block."""
    if any(theirs[key] != ours[key] for key in ("init", "adapters", "views")):
        return []
    if theirs != ours and ours["views"]["count"] is None and ours["views"]["total"] is None:
        return []  # without a limit, as many views are made as the longest stage can see
    if theirs != ours and ours["views"]["synthetic"] is not None:
        return []  # of which there are the more the longer that stage is
    pairs = zip(theirs["stages"], ours["stages"], strict=False)
    same = [stage for stage, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]
    return list(takewhile(lambda stage: stage["train"] == "blocks" and stage["input"] == "teacher", same))
