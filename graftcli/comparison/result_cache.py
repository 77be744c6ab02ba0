"""Results of a comparison, cached in cells.json under a digest of their inputs."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter

from graftcli.report.documents import Warn, load, silent
from graftcli.store.atomic import plain, write_json

RESULTS_FILE = "cells.json"
_FORMAT = 2
_KEY = 16  # characters of a digest

_Digest = Annotated[str, Field(pattern=r"\A[0-9a-f]{16}\z")]


class _Entry(BaseModel, frozen=True):
    """A cached value with a digest of its key and itself, so that an edited entry is detected and recomputed."""

    value: Any
    digest: _Digest


class _CacheFile(BaseModel):
    format: Literal[2]
    facts: dict[str, dict[_Digest, _Entry]]


_DOCUMENT = TypeAdapter(_CacheFile)


class ResultCache:
    """The cached results of a comparison."""

    def __init__(self, folder: Path, warn: Warn = silent) -> None:
        """Read the cache of a comparison.

        Parameters:
            folder: Folder of the comparison.
            warn: Called with a message if the file or some of its entries cannot be used.
        """
        self._file = folder / RESULTS_FILE
        document = load(self._file, _DOCUMENT, warn)
        stored = document.facts if document is not None else {}
        self._facts = {
            kind: {key: entry for key, entry in entries.items() if _is_intact(key, entry)}
            for kind, entries in stored.items()
        }
        if changed := sum(len(stored[kind]) - len(self._facts[kind]) for kind in stored):
            warn(f"{changed} entries of `{self._file}` were edited: recomputing them")

    def get_or_compute(self, kind: str, depends_on: object, compute: Callable[[], object]) -> Any:
        """Return the cached value for the same inputs, else compute and store it; values are plain JSON."""
        key, entries = _digest(depends_on), self._facts.setdefault(kind, {})
        if key not in entries:
            value = plain(compute())
            entries[key] = _Entry(value=value, digest=_digest([key, value]))
            facts = {kind: {key: dict(entry) for key, entry in each.items()} for kind, each in self._facts.items()}
            write_json(self._file, {"format": _FORMAT, "facts": facts})
        return entries[key].value

    def has(self, kind: str, depends_on: object) -> bool:
        """Whether a value is cached for the same inputs."""
        return _digest(depends_on) in self._facts.get(kind, {})


def _is_intact(key: str, entry: _Entry) -> bool:
    """Whether the entry is unchanged; a number that is not finite counts as changed."""
    return bool(entry.value == plain(entry.value)) and entry.digest == _digest([key, entry.value])


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()[:_KEY]
