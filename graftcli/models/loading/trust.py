"""Decide which code a document may run: only files whose exact bytes the user trusts.

A document (graft.json, run.json, the metadata of a safetensors file) is data. A network from user code is rebuilt from
it only if the user trusts the Python file that it names. `--trust-code` stores the sha256 of the file and the name of
the factory in `trusted.json` in the user's configuration folder.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from graftcli.errors import CheckpointError, UsageError
from graftcli.models.loading.plain_file import read_text

UNPICKLE, IMPORT = "unpickle", "import"  # values of `call` for a checkpoint's pickle and for an imported module
_FORMAT = 1
_FIX = "If you trust it, add --trust-code (in Python: trust_code=True). `graftcli trust ls` lists trusted files."


@dataclass(frozen=True)
class Trusted:
    """An entry of trusted.json: a call into a file with exactly these bytes."""

    sha256: str
    call: str  # the factory in the file, or UNPICKLE, or IMPORT for a module that a trusted file imports
    path: str  # where the file was when it was trusted; informative only
    since: str


def trust_file() -> Path:
    """The path of trusted.json."""
    base = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config")
    base = base if base.is_absolute() else Path("~/.config")  # a relative path would depend on the working directory
    return base.expanduser() / "graftcli" / "trusted.json"


def trusted() -> tuple[Trusted, ...]:
    """All trusted entries."""
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
            f"`{file}` cannot be read: {type(err).__name__}: {err}.",
            "Fix the file, or delete it, which removes all trusted entries.",
        ) from err


def _entry(fields: Mapping[str, str]) -> Trusted:
    """An entry of the file as read; raise TypeError unless its fields are strings."""
    entry = Trusted(**fields)
    if not all(isinstance(value, str) for value in asdict(entry).values()):
        raise TypeError("a field is not a string")
    return entry


def add(entries: Iterable[Trusted]) -> None:
    """Add entries to trusted.json."""
    known = trusted()
    new = [
        entry
        for entry in entries
        if all((entry.sha256, entry.call) != (known_entry.sha256, known_entry.call) for known_entry in known)
    ]
    if new:
        _write((*known, *new))


def remove(sha256: str) -> tuple[Trusted, ...]:
    """Remove all entries of the file whose sha256 starts with this prefix; returns the removed entries."""
    known = trusted()
    removed = tuple(entry for entry in known if sha256 and entry.sha256.startswith(sha256.lower()))
    if len({entry.sha256 for entry in removed}) != 1:
        message = f"`{sha256}` matches {len({entry.sha256 for entry in removed})} trusted files."
        raise UsageError(message, "Give the first digits of a sha256 from `graftcli trust ls`.")
    _write(tuple(entry for entry in known if entry not in removed))
    return removed


def _write(entries: tuple[Trusted, ...]) -> None:
    file = trust_file()
    document = {"format": _FORMAT, "trusted": [asdict(entry) for entry in entries]}
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        temporary.replace(file)
    except OSError as err:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise UsageError(f"`{file}` cannot be written: {err.strerror or err}.", "Check its permissions.") from err


@dataclass(frozen=True)
class Gate:
    """Checks the code that a document names against the trusted files."""

    document: Path  # the document that names the code
    trust_code: bool = False  # whether the user trusts, in this call, the code that the document names

    def admit(self, path: Path, data: bytes, call: str) -> None:
        """Raise unless `call` into a file with these bytes is trusted."""
        self._admit(path, hashlib.sha256(data).hexdigest(), call)

    def admits_pickle(self, path: Path) -> bool:
        """Whether a checkpoint that the document names exists; raise if it exists and is not trusted."""
        if not path.is_file():
            return False  # reading the weights reports it
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._admit(path, digest, UNPICKLE)
        return True

    def _admit(self, path: Path, digest: str, call: str) -> None:
        if _is_trusted(digest, call):
            return
        if not self.trust_code:
            raise refusal(self.document, f"{_describe(call)} `{path}` (sha256 {digest[:12]}…)", _FIX)
        add([Trusted(digest, call, str(path), datetime.now(UTC).isoformat(timespec="seconds"))])


def _is_trusted(digest: str, call: str) -> bool:
    return any((entry.sha256, entry.call) == (digest, call) for entry in trusted())


class Untrusted(CheckpointError):
    """A document refers to code or a download that only the user may start."""


def refusal(document: Path, code: str, fix: str) -> Untrusted:
    """The error for code that a document refers to."""
    message = f"loading `{document}` would run code: {code}. Documents cannot run code that you do not trust."
    return Untrusted(message, fix)


def _describe(call: str) -> str:
    return {UNPICKLE: "the pickle in", IMPORT: "the module"}.get(call, f"`{call}` of")
