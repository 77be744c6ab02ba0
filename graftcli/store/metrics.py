"""metrics.jsonl: one record per line, appended during training and truncated when a run is resumed."""

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from graftcli.store.atomic import plain, write_bytes, writing


def append(path: Path, record: Mapping[str, object]) -> None:
    """Append a record."""
    line = f"{json.dumps(plain(record))}\n".encode()
    with writing(path, len(line)), path.open("ab") as file:
        file.write(line)


def drop_repeated(path: Path, step_of: Callable[[str], float]) -> None:
    """Drop the records that a resumed run writes again, after the saved step of their unit, and incomplete lines."""
    if not path.exists():
        return
    saved_step = cache(step_of)
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if line.endswith(b"\n") and _is_past(line, saved_step)]
    if kept != lines:
        write_bytes(path, b"".join(kept))


def _is_past(line: bytes, step_of: Callable[[str], float]) -> bool:
    """Whether a line is valid and its step is not after the unit's saved step."""
    try:
        record = json.loads(line)
        return bool(record["step"] <= step_of(record["unit"]))
    except (ValueError, KeyError, TypeError):
        return False
