"""Decide whether a command resumes the run in its folder, and find the newest run."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from graftcli.errors import CheckpointError, GraftError, UsageError
from graftcli.store.atomic import plain
from graftcli.store.run_file import RUN_FILE, read_record
from graftcli.store.run_record import RunRecord, RunSettings

_MAX_LINES = 20  # differing settings that an error lists
_MAX_VALUE = 60  # characters of a value in that list
_ABSENT = object()
_DIGEST = re.compile(r"[0-9a-f]{64}")
_CODE = re.compile(r"(teacher|student)\.origin\.sha256")  # the setting with the digest of a network's Python file
_Difference = tuple[str, object, object]


def newest(runs: Path, matches: Callable[[RunRecord], bool] = lambda record: True) -> Path | None:
    """The folder under `runs` with the latest activity, finished or not, among the runs that match."""
    candidates: list[tuple[str, Path]] = []
    for file in sorted(runs.glob(f"*/{RUN_FILE}")):
        with suppress(GraftError):
            if matches(record := read_record(file.parent)):
                candidates.append((record.last_activity, file.parent))
    return max(candidates)[1] if candidates else None


def resumable_run(folder: Path, settings: RunSettings, overwrite: bool) -> RunRecord | None:
    """The folder's run if it has these settings; None if there is no run or it is to be overwritten.

    With `overwrite`, an interrupted run with the same settings is still resumed, because its result is the same.
    """
    if not (folder / RUN_FILE).exists():
        return None
    try:
        record = read_record(
            folder, "Choose another folder with --out, or start this one from scratch with --overwrite."
        )
        if changes := list(differences(settings_document(record.settings), settings_document(settings))):
            raise different_settings(folder, changes)
    except (UsageError, CheckpointError):
        if overwrite:
            return None
        raise
    return None if overwrite and record.status == "finished" else record


def settings_document(settings: RunSettings) -> dict[str, object]:
    """The settings as JSON, to compare them field by field."""
    document: dict[str, object] = plain(settings.model_dump())
    return document


def differences(old: object, new: object, name: str = "") -> Iterator[_Difference]:
    """Each difference between two documents: the dotted name, the old value and the new value."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            yield from differences(old.get(key, _ABSENT), new.get(key, _ABSENT), f"{name}.{key}".lstrip("."))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from differences(before, after, f"{name}.{index}")
    elif old != new:
        yield name, old, new


def different_settings(folder: Path, changes: Sequence[_Difference]) -> UsageError:
    """The error that lists the settings that differ."""
    shown = [(_CODE.sub(r"code of the \1", name), old, new) for name, old, new in changes[:_MAX_LINES]]
    lines = [f"  {name}: {_quoted(old)} in the run, {_quoted(new)} now" for name, old, new in shown]
    more = [f"  and {len(changes) - _MAX_LINES} more"] if len(changes) > _MAX_LINES else []
    found = "\n".join([f"`{folder}` holds a run with different settings:", *lines, *more])
    return UsageError(found, "Choose another folder with --out, or start from scratch with --overwrite.")


def _quoted(value: object) -> str:
    if isinstance(value, str) and _DIGEST.fullmatch(value):
        return f"sha256 {value[:12]}…"
    text = "not set" if value is _ABSENT else json.dumps(value)
    return text if len(text) <= _MAX_VALUE else f"{text[: _MAX_VALUE - 3]}..."
