"""Which code a document may run: none, but files whose exact bytes the user has trusted.

A document (graft.json, run.json, the metadata of a safetensors file) is data. A network of the user's own is rebuilt
from it only when the user trusts the Python file that it names: once with `--trust-code`, which stores the sha256 of
the file and the name of what is called in it, in `trusted.json` of the user's configuration folder.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from graftcli.errors import CheckpointError, UsageError
from graftcli.models.loading.plain_file import read_text

UNPICKLE, IMPORT = "unpickle", "import"  # what is trusted beside a factory's name: a checkpoint's pickle, a module
_FORMAT = 1
_FIX = "If you trust it, add --trust-code (in Python: trust_code=True). `graftcli trust ls` lists what you trust."


@dataclass(frozen=True)
class Trusted:
    """One thing that the user trusts: a call into a file of exactly these bytes."""

    sha256: str
    call: str  # the factory in the file, or UNPICKLE, or IMPORT for a module that a trusted file imports
    path: str  # where the file was when it was trusted, for a person to read
    since: str


def trust_file() -> Path:
    """Where the user's trust is kept."""
    base = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config")
    base = base if base.is_absolute() else Path("~/.config")  # a relative one would be another in each folder
    return base.expanduser() / "graftcli" / "trusted.json"


def trusted() -> tuple[Trusted, ...]:
    """Everything that the user trusts."""
    file = trust_file()
    try:
        document = json.loads(read_text(file))
        if document["format"] != _FORMAT:
            raise ValueError(f"format {document['format']}")
        return tuple(_entry(fields) for fields in document["trusted"])
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise UsageError(
            f"`{file}` cannot be read: {type(err).__name__}: {err}.", "Correct it, or remove it to trust nothing."
        ) from err


def _entry(fields: Mapping[str, Any]) -> Trusted:
    entry = Trusted(**fields)
    if not all(isinstance(value, str) for value in asdict(entry).values()):
        raise TypeError("a field is no text")
    return entry


def add(entries: Iterable[Trusted]) -> None:
    """Trust these too."""
    known = trusted()
    new = [one for one in entries if all((one.sha256, one.call) != (old.sha256, old.call) for old in known)]
    if new:
        _write((*known, *new))


def remove(sha256: str) -> tuple[Trusted, ...]:
    """Trust nothing of the file whose sha256 starts so any more; returns what was removed."""
    known = trusted()
    gone = tuple(one for one in known if sha256 and one.sha256.startswith(sha256.lower()))
    if len({one.sha256 for one in gone}) != 1:
        found = f"`{sha256}` matches {len({one.sha256 for one in gone})} trusted files."
        raise UsageError(found, "Give the start of one of those that `graftcli trust ls` lists.")
    _write(tuple(one for one in known if one not in gone))
    return gone


def _write(entries: tuple[Trusted, ...]) -> None:
    file = trust_file()
    document = {"format": _FORMAT, "trusted": [asdict(one) for one in entries]}
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside.touch(mode=0o600)
        beside.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        beside.replace(file)
    except OSError as err:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise UsageError(f"`{file}` cannot be written: {err.strerror or err}.", "Check its permissions.") from err


@dataclass(frozen=True)
class Gate:
    """What stands between a document and the code that it names."""

    document: Path  # which names the code
    trust_code: bool = False  # whether the user trusts, in this call, what the document names

    def admit(self, path: Path, data: bytes, call: str) -> None:
        """Returns where `call` into a file of these bytes is trusted, and refuses it otherwise."""
        self._admit(path, hashlib.sha256(data).hexdigest(), call)

    def admits_pickle(self, path: Path) -> bool:
        """Whether a checkpoint that the document names is there; where its pickle may not run, it is refused."""
        if not path.is_file():
            return False  # reading its weights says why
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._admit(path, digest, UNPICKLE)
        return True

    def _admit(self, path: Path, digest: str, call: str) -> None:
        if _is_trusted(digest, call):
            return
        if not self.trust_code:
            raise refusal(self.document, f"{_what(call)} `{path}` (sha256 {digest[:12]}…)", _FIX)
        add([Trusted(digest, call, str(path), datetime.now(UTC).isoformat(timespec="seconds"))])


def _is_trusted(digest: str, call: str) -> bool:
    return any((one.sha256, one.call) == (digest, call) for one in trusted())


class Untrusted(CheckpointError):
    """A document asks for what only the user may start: code, or a download."""


def refusal(document: Path, wanted: str, fix: str) -> Untrusted:
    """The error for code that a document asks for."""
    found = f"`{document}` asks to run code: {wanted}. Files cannot run code unless you trust it."
    return Untrusted(found, fix)


def _what(call: str) -> str:
    return {UNPICKLE: "the pickle in", IMPORT: "the module"}.get(call, f"`{call}` of")
