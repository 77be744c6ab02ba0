"""run.json: what it says of a run, whether a command goes on with that run, which run was worked on last.

{"format": 1, "status": "running" | "finished", "settings": …, "fixed": …, "sessions": [{"started": …}, …],
 "ended": …, "result": …}
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from graftcli.errors import GraftError, UsageError

RUN_FILE = "run.json"
_FORMAT = 1
_LINES = 20  # settings that an error names
_WIDTH = 60  # characters of a value in it


def new_run(settings: dict[str, Any]) -> dict[str, Any]:
    return {"format": _FORMAT, "status": "running", "settings": settings, "sessions": []}


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def read_run(folder: Path, mend: str = "Name the folder of a run: `ls runs`.") -> dict[str, Any]:
    """What run.json says."""
    file = folder / RUN_FILE
    try:
        run: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if run["format"] != _FORMAT:
            found = f"`{file}` has format {run['format']}; this graftcli reads format {_FORMAT}."
            raise UsageError(found, "Update graftcli.")
        _moment(run)
        if missing := {"settings", "status"} - set(run):
            raise KeyError(*sorted(missing))
    except OSError as err:
        raise UsageError(f"`{file}` cannot be read: {err.strerror or err}.", mend) from err
    except (ValueError, KeyError, TypeError, IndexError) as err:
        raise UsageError(f"`{file}` is not what graftcli writes: {type(err).__name__}: {err}.", mend) from err
    return run


def newest(runs: Path, fits: Callable[[Mapping[str, Any]], bool] = lambda run: True) -> Path | None:
    """The folder under `runs` that was worked on last, its run finished or interrupted, among those that fit."""
    found: list[tuple[str, Path]] = []
    for file in sorted(runs.glob(f"*/{RUN_FILE}")):
        with suppress(GraftError):
            if fits(run := read_run(file.parent)):
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
        run = read_run(folder, "Choose another folder with --out, or start this one anew with --overwrite.")
        if differing := list(differences(run["settings"], settings)):
            raise _refusal(folder, differing)
    except UsageError:
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
        for index, (ours, theirs) in enumerate(zip(old, new, strict=True)):
            yield from differences(ours, theirs, f"{name}.{index}")
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
