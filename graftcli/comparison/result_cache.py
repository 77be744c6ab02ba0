"""What a comparison remembers beside its runs: cells.json, in which each fact stands under what it depends on."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter

from graftcli.report.documents import Warn, load, silent
from graftcli.store.atomic import plain, write_json

NOTEBOOK_FILE = "cells.json"
_FORMAT = 2
_KEY = 16  # characters of a digest

_Digest = Annotated[str, Field(pattern=r"\A[0-9a-f]{16}\z")]


class _Fact(BaseModel, frozen=True):
    """A fact, with a digest of its key and itself: one that was changed by hand is found again instead of believed."""

    value: Any
    digest: _Digest


class _Document(BaseModel):
    format: Literal[2]
    facts: dict[str, dict[_Digest, _Fact]]


_DOCUMENT = TypeAdapter(_Document)


class ResultCache:
    """The facts of one comparison's folder."""

    def __init__(self, folder: Path, warn: Warn = silent) -> None:
        """Read what the folder remembers.

        Parameters:
            folder: the comparison's folder.
            warn: is called with a sentence about what is remembered and cannot be used; it is found again.
        """
        self._file = folder / NOTEBOOK_FILE
        document = load(self._file, _DOCUMENT, warn)
        found = document.facts if document is not None else {}
        whole = {
            kind: {key: fact for key, fact in facts.items() if _is_whole(key, fact)} for kind, facts in found.items()
        }
        if changed := sum(len(found[kind]) - len(whole[kind]) for kind in found):
            warn(f"{changed} of the facts in `{self._file}` were changed: they are found again")
        self._facts = whole

    def once(self, kind: str, depends_on: Any, find: Callable[[], Any]) -> Any:
        """What was found before for the same, else what is found now, as JSON gives it back."""
        key, facts = _digest(depends_on), self._facts.setdefault(kind, {})
        if key not in facts:
            value = plain(find())
            facts[key] = _Fact(value=value, digest=_digest([key, value]))
            kept = {kind: {key: dict(fact) for key, fact in facts.items()} for kind, facts in self._facts.items()}
            write_json(self._file, {"format": _FORMAT, "facts": kept})
        return facts[key].value

    def knows(self, kind: str, depends_on: Any) -> bool:
        """Whether something was found for the same before."""
        return _digest(depends_on) in self._facts.get(kind, {})


def _is_whole(key: str, fact: _Fact) -> bool:
    """Whether the fact is the one that was written; a number that is not finite never is."""
    return bool(fact.value == plain(fact.value)) and fact.digest == _digest([key, fact.value])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()[:_KEY]
