"""Whether what a run is asked for is still what it was: paths stay the same when the files behind them change."""

import hashlib
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from graftcli.images.sources import files_below, is_hidden
from graftcli.models.loading.saved import FACTS_FILE, WEIGHTS_FILE, is_output
from graftcli.runs.config import RunConfig, as_kept
from graftcli.runs.prepare import recipe_of
from graftcli.store.atomic import plain
from graftcli.students.spec import is_wanted


def mark_of(asked: RunConfig) -> str:
    """One word for all that is asked for and decides a result, and for what is behind it: recipe, networks, images."""
    kept, networks = as_kept(replace(asked, how=replace(asked.how, jobs=None))), asked.networks
    behind = [
        networks.teacher,
        networks.student,
        networks.teacher_checkpoint,
        networks.student_checkpoint,
        asked.images,
        asked.val_images,
    ]
    recipe = recipe_of(asked.how).model_dump(mode="json")
    told = json.dumps(plain([kept, recipe, [state_of(text) for text in behind]]), sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


@cache  # a comparison asks for the same files many times; the next one looks again
def state_of(text: str | None) -> Any:
    """Sizes and times of the files that a spec or path leads to; nothing where it is a name of another kind.

    Of what graftcli wrote, the weights and what they are of: reports and measurements come and go.
    """
    if text is None or is_wanted(text):
        return None
    front, code, _ = text.removeprefix("local-dir:").partition(".py:")
    path = Path(front + code.rstrip(":")).expanduser()
    if path.is_dir():
        files = [path / FACTS_FILE, path / WEIGHTS_FILE] if is_output(path) else files_below(path)
        return [_stamp(file, path) for file in files if file.is_file() and not is_hidden(str(file.relative_to(path)))]
    return _stamp(path, path.parent) if path.is_file() else None


def _stamp(file: Path, root: Path) -> list[Any]:
    found = file.stat()
    return [str(file.relative_to(root)), found.st_size, found.st_mtime_ns]
