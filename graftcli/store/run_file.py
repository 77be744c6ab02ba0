"""run.json: what it says of a run, whether a command goes on with that run, which run was worked on last.

{"format": 1, "status": "running" | "finished", "settings": …, "fixed": …, "sessions": [{"started": …}, …],
 "ended": …, "result": …, "files": {"model.safetensors": sha256, …}, "digest": sha256 of all else}
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
_LINES = 20  # settings that an error names
_WIDTH = 60  # characters of a value in it


def new_run(settings: dict[str, Any]) -> dict[str, Any]:
    return {"format": _FORMAT, "status": "running", "settings": settings, "sessions": []}


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def read_run(folder: Path, fix: str = "Name the folder of a run: `ls runs`.") -> dict[str, Any]:
    """What run.json says, once its digest is checked; `record.read_record` checks every field too."""
    file = folder / RUN_FILE
    try:
        run = json.loads(read_text(file))
    except OSError as err:
        raise UsageError(f"`{file}` cannot be read: {err.strerror or err}.", fix) from err
    except (ValueError, RecursionError) as err:
        raise _damaged(file, f"it is no JSON: {err}", fix) from err
    if not isinstance(run, dict):
        raise _damaged(file, f"it is a {type(run).__name__}, not a map", fix)
    if run.get("format") != _FORMAT:
        found = f"`{file}` has format {run.get('format')!r}; this graftcli reads format {_FORMAT}."
        raise CheckpointError(found, "Update graftcli, or start the run from scratch with --overwrite.")
    if missing := sorted({"digest", "settings", "sessions", "status"} - set(run)):
        raise _damaged(file, f"{', '.join(f'`{name}`' for name in missing)} missing", fix)
    for name, kind in (("settings", dict), ("sessions", list), ("status", str)):
        if not isinstance(run[name], kind) or not run[name]:
            raise _damaged(file, f"`{name}` is {json.dumps(run[name])[:60]}", fix)
    if not isinstance(run["sessions"][-1], dict) or not isinstance(run["sessions"][-1].get("started"), str):
        raise _damaged(file, "the last of its `sessions` does not say when it `started`", fix)
    if run.pop("digest") != digest_of(run):
        raise _damaged(file, "its digest is that of another record", fix)
    return run


def write_run(folder: Path, run: Mapping[str, Any]) -> None:
    write_json(folder / RUN_FILE, {**run, "digest": digest_of(run)})


def digest_of(run: Mapping[str, Any]) -> str:
    """The sha256 of a record, without its own digest."""
    text = json.dumps(plain({key: run[key] for key in run if key != "digest"}), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _damaged(file: Path, found: str, fix: str) -> CheckpointError:
    return CheckpointError(f"`{file}` is damaged or was changed: {found}.", fix)


def newest(
    runs: Path,
    fits: Callable[[Mapping[str, Any]], bool] = lambda run: True,
    read: Callable[[Path], dict[str, Any]] = read_run,
) -> Path | None:
    """The folder under `runs` that was worked on last, its run finished or interrupted, among those that fit."""
    found: list[tuple[str, Path]] = []
    for file in sorted(runs.glob(f"*/{RUN_FILE}")):
        with suppress(GraftError):
            if fits(run := read(file.parent)):
                found.append((_moment(run), file.parent))
    return max(found)[1] if found else None


def _moment(run: Mapping[str, Any]) -> str:
    """When a run was last begun, gone on with or ended; such times, as text, are in order."""
    return max(str(run.get("ended", "")), str(run["sessions"][-1]["started"]))


def run_to_go_on(folder: Path, settings: dict[str, Any], overwrite: bool) -> dict[str, Any] | None:
    """The folder's run if it has these settings; None if there is none, or it is to be overwritten.

    To overwrite an interrupted run by the same one is to go on with it: the bytes are the same, and so is the command.
    """
    if not (folder / RUN_FILE).exists():
        return None
    try:
        run = read_run(folder, "Choose another folder with --out, or start this one from scratch with --overwrite.")
        if differing := list(differences(run["settings"], settings)):
            raise _refusal(folder, differing)
    except (UsageError, CheckpointError):
        if overwrite:
            return None
        raise
    return None if overwrite and run["status"] == "finished" else run


_ABSENT = object()
_Difference = tuple[str, Any, Any]


def differences(old: Any, new: Any, name: str = "") -> Iterator[_Difference]:
    """Each place where two documents differ: its dotted name, what stands there in the one and in the other."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from differences(old.get(key, _ABSENT), new.get(key, _ABSENT), f"{name}.{key}".lstrip("."))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from differences(before, after, f"{name}.{index}")
    elif old != new:
        yield name, old, new


def _refusal(folder: Path, differing: list[_Difference]) -> UsageError:
    lines = [f"  {name}: {_shown(old)} there, {_shown(new)} now" for name, old, new in differing[:_LINES]]
    more = [f"  and {len(differing) - _LINES} more"] if len(differing) > _LINES else []
    found = "\n".join([f"`{folder}` holds a run with other settings:", *lines, *more])
    return UsageError(found, "Choose another folder with --out, or start this one anew with --overwrite.")


def _shown(value: Any) -> str:
    text = "nothing" if value is _ABSENT else json.dumps(value)
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 3]}..."
