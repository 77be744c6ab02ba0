"""Read and write run.json; no other module does.

The file holds the fields of `RunRecord` and `digest`, the SHA-256 of all of them.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from pydantic import JsonValue, ValidationError

from graftcli.errors import CheckpointError, UsageError
from graftcli.models.loading.documents import check_origin, fault
from graftcli.models.loading.plain_file import read_text
from graftcli.models.loading.safe_pickle import sha256_of
from graftcli.models.loading.saved import FACTS_FILE, WEIGHTS_FILE
from graftcli.store.atomic import plain, write_json
from graftcli.store.run_record import FORMAT, RunRecord

RUN_FILE = "run.json"
_NAME_A_RUN = "Name the folder of a run, for example one in `ls runs`."
_RESTORE = "Run the run's command again with --overwrite, or restore the file from a copy of the run."


def read_record(folder: Path, fix: str | None = None) -> RunRecord:
    """Read run.json, verify its digest and validate every field; `fix` replaces the advice of all errors."""
    file = folder / RUN_FILE
    document = _read_document(file, fix)

    def damaged(reason: str) -> NoReturn:
        raise CheckpointError(f"`{file}` is damaged or was changed: {reason}.", fix or _RESTORE)

    if document.get("format") != FORMAT:
        found = f"`{file}` has format {document.get('format')!r}; this graftcli reads format {FORMAT}."
        raise CheckpointError(
            found, fix or "Start the run from scratch with --overwrite, or use the graftcli that wrote it."
        )
    if document.pop("digest", None) != digest_of(document):
        damaged("its digest does not match its content")
    try:
        record = RunRecord.model_validate(document)
    except ValidationError as err:
        damaged(fault(err))
    except UsageError as err:  # of Preprocess
        damaged(err.message.rstrip("."))
    for role, network in (("teacher", record.settings.teacher), ("student", record.settings.student)):
        check_origin(network.origin, file, f"settings.{role}.origin")
    return record


def _read_document(file: Path, fix: str | None) -> dict[str, JsonValue]:
    try:
        document = json.loads(read_text(file))
    except OSError as err:
        raise UsageError(f"`{file}` cannot be read: {err.strerror or err}.", fix or _NAME_A_RUN) from err
    except (ValueError, RecursionError) as err:
        raise CheckpointError(f"`{file}` is damaged or was changed: it is not JSON: {err}.", fix or _RESTORE) from err
    if not isinstance(document, dict):
        found = f"`{file}` is damaged or was changed: it is a {type(document).__name__}, not a map."
        raise CheckpointError(found, fix or _RESTORE)
    return document


def write_record(folder: Path, record: RunRecord) -> None:
    """Write run.json with its digest."""
    write_json(folder / RUN_FILE, sealed(document_of(record)))


def document_of(part: RunRecord) -> dict[str, JsonValue]:
    """The record as JSON, without its digest."""
    document: dict[str, JsonValue] = plain(part.model_dump())
    return document


def sealed(document: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The document with its digest."""
    return {**document, "digest": digest_of(document)}


def digest_of(document: Mapping[str, JsonValue]) -> str:
    """The SHA-256 of a document without its `digest`."""
    text = json.dumps({key: document[key] for key in document if key != "digest"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def is_intact(folder: Path, record: RunRecord) -> bool:
    """Whether the network of a finished run is complete and undamaged."""
    return all(digest_of_file(folder / name) == record.files.get(name) for name in (WEIGHTS_FILE, FACTS_FILE))


def digest_of_file(path: Path) -> str | None:
    """The SHA-256 of a file; None if it cannot be read."""
    try:
        return sha256_of(path) if path.is_file() else None
    except OSError:  # the name is too long, or permission is denied
        return None
