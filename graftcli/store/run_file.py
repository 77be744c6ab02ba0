"""Read and write run.json, decide whether a command resumes its run, and find the newest run.

{"format": 1, "status": "running" | "finished", "settings": …, "fixed": …, "sessions": [{"started": …}, …],
 "ended": …, "result": …, "files": {"model.safetensors": sha256, …}, "digest": sha256 of all other fields}
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from graftcli.errors import CheckpointError, GraftError, UsageError
from graftcli.models.loading.plain_file import read_text
from graftcli.store.atomic import plain, write_json

RUN_FILE = "run.json"
_FORMAT = 1
_MAX_LINES = 20  # differing settings that an error lists
_MAX_VALUE = 60  # characters of a value in that list


def new_run(settings: dict[str, Any]) -> dict[str, Any]:
    return {"format": _FORMAT, "status": "running", "settings": settings, "sessions": []}


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def read_run(folder: Path, fix: str = "Name the folder of a run, for example one in `ls runs`.") -> dict[str, Any]:
    """Read run.json and verify its digest; `run_record.read_record` also validates every field."""
    file = folder / RUN_FILE
    try:
        run = json.loads(read_text(file))
    except OSError as err:
        raise UsageError(f"`{file}` cannot be read: {err.strerror or err}.", fix) from err
    except (ValueError, RecursionError) as err:
        raise _damaged(file, f"it is not JSON: {err}", fix) from err
    if not isinstance(run, dict):
        raise _damaged(file, f"it is a {type(run).__name__}, not a map", fix)
    if run.get("format") != _FORMAT:
        found = f"`{file}` has format {run.get('format')!r}; this graftcli reads format {_FORMAT}."
        raise CheckpointError(found, "Update graftcli, or start the run from scratch with --overwrite.")
    if missing := sorted({"digest", "settings", "sessions", "status"} - set(run)):
        raise _damaged(file, f"{', '.join(f'`{name}`' for name in missing)} missing", fix)
    for name, kind in (("settings", dict), ("sessions", list), ("status", str)):
        if not isinstance(run[name], kind) or not run[name]:
            raise _damaged(file, f"`{name}` is {json.dumps(run[name])[:_MAX_VALUE]}", fix)
    if not isinstance(run["sessions"][-1], dict) or not isinstance(run["sessions"][-1].get("started"), str):
        raise _damaged(file, "the last of `sessions` has no `started`", fix)
    if run.pop("digest") != digest_of(run):
        raise _damaged(file, "its digest does not match its content", fix)
    return run


def write_run(folder: Path, run: Mapping[str, Any]) -> None:
    write_json(folder / RUN_FILE, {**run, "digest": digest_of(run)})


def digest_of(run: Mapping[str, Any]) -> str:
    """The sha256 of a record without its `digest` field."""
    text = json.dumps(plain({key: run[key] for key in run if key != "digest"}), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _damaged(file: Path, reason: str, fix: str) -> CheckpointError:
    return CheckpointError(f"`{file}` is damaged or was changed: {reason}.", fix)


def newest(
    runs: Path,
    matches: Callable[[Mapping[str, Any]], bool] = lambda run: True,
    read: Callable[[Path], dict[str, Any]] = read_run,
) -> Path | None:
    """The folder under `runs` with the latest activity, finished or not, among the runs that match."""
    candidates: list[tuple[str, Path]] = []
    for file in sorted(runs.glob(f"*/{RUN_FILE}")):
        with suppress(GraftError):
            if matches(run := read(file.parent)):
                candidates.append((_last_activity(run), file.parent))
    return max(candidates)[1] if candidates else None


def _last_activity(run: Mapping[str, Any]) -> str:
    """The last time that a run was started, resumed or finished, as sortable text."""
    return max(str(run.get("ended", "")), str(run["sessions"][-1]["started"]))


def resumable_run(folder: Path, settings: dict[str, Any], overwrite: bool) -> dict[str, Any] | None:
    """The folder's run if it has these settings; None if there is no run or it is to be overwritten.

    With `overwrite`, an interrupted run with the same settings is still resumed: its result is the same bytes.
    """
    if not (folder / RUN_FILE).exists():
        return None
    try:
        run = read_run(folder, "Choose another folder with --out, or start this one from scratch with --overwrite.")
        if changes := list(differences(run["settings"], settings)):
            raise _different_settings(folder, changes)
    except (UsageError, CheckpointError):
        if overwrite:
            return None
        raise
    return None if overwrite and run["status"] == "finished" else run


_ABSENT = object()
_Difference = tuple[str, Any, Any]


def differences(old: Any, new: Any, name: str = "") -> Iterator[_Difference]:
    """Each difference between two documents: the dotted name, the old value and the new value."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from differences(old.get(key, _ABSENT), new.get(key, _ABSENT), f"{name}.{key}".lstrip("."))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from differences(before, after, f"{name}.{index}")
    elif old != new:
        yield name, old, new


def _different_settings(folder: Path, changes: list[_Difference]) -> UsageError:
    lines = [f"  {name}: {_quoted(old)} in the run, {_quoted(new)} now" for name, old, new in changes[:_MAX_LINES]]
    more = [f"  and {len(changes) - _MAX_LINES} more"] if len(changes) > _MAX_LINES else []
    found = "\n".join([f"`{folder}` holds a run with different settings:", *lines, *more])
    return UsageError(found, "Choose another folder with --out, or start from scratch with --overwrite.")


def _quoted(value: Any) -> str:
    text = "not set" if value is _ABSENT else json.dumps(value)
    return text if len(text) <= _MAX_VALUE else f"{text[: _MAX_VALUE - 3]}..."
