"""Fingerprints of configs that also cover the files that a config names."""

import hashlib
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import cast

from graftcli.images.sources.folder import files_below
from graftcli.images.sources.source import is_hidden
from graftcli.models.loading.saved import FACTS_FILE, WEIGHTS_FILE, is_output
from graftcli.runs.config import RunConfig, config_json
from graftcli.runs.prepare import recipe_of
from graftcli.store.atomic import plain
from graftcli.students.spec import is_derived_spec


def fingerprint(config: RunConfig) -> str:
    """Return a hash of the config, its recipe, and the state of its networks and images on disk."""
    document, networks = config_json(replace(config, how=replace(config.how, jobs=None))), config.networks
    how = cast(dict[str, object], document["how"])
    how.pop("images_gb")  # where pixels are stored does not affect the result
    if config.how.max_images is None:
        del how["max_images"], how["select"]
    paths = [
        networks.teacher,
        networks.student,
        networks.teacher_checkpoint,
        networks.student_checkpoint,
        config.images,
        config.val_images,
        config.extra_images,
    ]
    recipe = recipe_of(config.how).model_dump(mode="json")
    inputs = json.dumps(plain([document, recipe, [file_stats(spec) for spec in paths]]), sort_keys=True)
    return hashlib.sha256(inputs.encode()).hexdigest()[:16]


@cache  # within one comparison; the next one clears the cache
def file_stats(spec: str | None) -> object:
    """Return the sizes and modification times of the files that a spec or path names; None if it names none.

    Of a folder that graftcli wrote, only the weights and graft.json count: reports and benchmarks may change.
    """
    if spec is None or is_derived_spec(spec):
        return None
    prefix, code, _ = spec.removeprefix("local-dir:").partition(".py:")
    path = Path(prefix + code.rstrip(":")).expanduser()
    if path.is_dir():
        files = [path / FACTS_FILE, path / WEIGHTS_FILE] if is_output(path) else files_below(path)
        return [_stamp(file, path) for file in files if file.is_file() and not is_hidden(str(file.relative_to(path)))]
    return _stamp(path, path.parent) if path.is_file() else None


def _stamp(file: Path, root: Path) -> list[object]:
    stat = file.stat()
    return [str(file.relative_to(root)), stat.st_size, stat.st_mtime_ns]
