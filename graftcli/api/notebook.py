"""What a comparison remembers beside its runs: cells.json, in which every fact stands under what it hangs on."""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from graftcli.store.written import plain, write_json

NOTEBOOK_FILE = "cells.json"
_FORMAT = 1


class Notebook:
    def __init__(self, folder: Path) -> None:
        """What the folder remembers; nothing where its file is not there or not what this graftcli writes."""
        self._file = folder / NOTEBOOK_FILE
        self._facts: dict[str, Any] = {"format": _FORMAT}
        with suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads(self._file.read_text(encoding="utf-8"))
            if found["format"] == _FORMAT:
                self._facts = found

    def once(self, kind: str, hangs_on: Any, find: Callable[[], Any]) -> Any:
        """What was found before for the same, else what is found now, as JSON gives it back."""
        key, facts = _key(hangs_on), self._facts.setdefault(kind, {})
        if key not in facts:
            facts[key] = plain(find())
            write_json(self._file, self._facts)
        return facts[key]

    def knows(self, kind: str, hangs_on: Any) -> bool:
        """Whether something was found for the same before."""
        return _key(hangs_on) in self._facts.get(kind, {})


def _key(hangs_on: Any) -> str:
    return hashlib.sha256(json.dumps(plain(hangs_on), sort_keys=True).encode()).hexdigest()[:16]
