"""The schema of run.json, which every command validates before it uses a record.

A record is untrusted input: each field has a type and bounds, and an error names the file and the field.
"""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from graftcli.errors import CheckpointError
from graftcli.models.loading.documents import check_origin, fault
from graftcli.models.loading.safe_pickle import sha256_of
from graftcli.models.loading.saved import FACTS_FILE, WEIGHTS_FILE
from graftcli.recipe import Recipe
from graftcli.store.run_file import RUN_FILE, read_run

Text = Annotated[str, Field(max_length=4096)]
Amount = Annotated[int, Field(ge=0, le=2**63)]
Seconds = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Block = Annotated[int, Field(ge=1, le=10_000)]
_RUN_FILES = r"^(model\.safetensors|graft\.json|config\.json|blocks/[\w-]{1,200}\.safetensors)$"
Pair = Annotated[list[Amount], Field(min_length=2, max_length=2)]


class _Schema(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _Network(_Schema):
    name: Text
    origin: dict[str, Any]
    weights: Text


class _Cuts(_Schema):
    teacher: list[Text]
    student: list[Text]


class _Settings(_Schema):
    teacher: _Network
    student: _Network
    cuts: _Cuts
    blocks: Annotated[list[Block], Field(min_length=1)]
    frozen: list[Block] = []
    images: Text
    val_images: Text | None
    recipe: dict[str, Any]
    seed: Annotated[int, Field(ge=0, lt=2**63)]


class _Session(_Schema):
    started: Text
    asked: dict[str, Any]
    warnings: list[str] = []
    command: Text | None = None
    seconds: Seconds = 0
    peak_memory: Amount = 0


class _Fixed(_Schema):
    memory: Amount
    disk: Amount
    at_once: Amount | None
    threads: Annotated[int, Field(ge=1, le=4096)]
    device: Annotated[str, Field(pattern=r"^(cpu|mps|cuda(:\d{1,3})?)$")]


class _Setback(_Schema):
    unit: Text
    before: Share
    after: Share
    kept: Share
    fraction: Share
    stopped: Amount | None


class _Result(_Schema):
    teacher: Text
    student: Text
    blocks: list[Block]
    params: Pair
    macs: Pair
    unmerged: Pair
    kept: list[str]
    bytes: Pair
    stock: bool
    agreement: Share | None
    kl: Annotated[float, Field(allow_inf_nan=False)] | None = None
    held_out: Amount
    images: Amount
    frozen: list[Block] = []
    setbacks: list[_Setback] = []
    seconds: Seconds
    peak_memory: Amount


class _Record(_Schema):
    status: Literal["running", "finished"]
    settings: _Settings
    sessions: Annotated[list[_Session], Field(min_length=1)]
    fixed: _Fixed | None = None
    result: _Result | None = None
    ended: Text | None = None
    singles: dict[Text, Text | None] = {}
    files: dict[Annotated[str, Field(pattern=_RUN_FILES)], Text] = {}


_RECORD: TypeAdapter[Any] = TypeAdapter(_Record)
_FIX = "Run the run's command again with --overwrite, or restore the file from a copy of the run."


def read_record(folder: Path) -> dict[str, Any]:
    """Read the run.json of a `distill` or `partial` run and validate every field."""
    run, file = read_run(folder), folder / RUN_FILE
    try:
        _RECORD.validate_python(run)
    except ValidationError as err:
        raise CheckpointError(f"`{file}` is damaged or was changed: {fault(err)}.", _FIX) from err
    if run["status"] == "finished" and run.get("result") is None:
        raise CheckpointError(f"`{file}` is damaged or was changed: a finished run has no `result`.", _FIX)
    for role in ("teacher", "student"):
        check_origin(run["settings"][role]["origin"], file, f"settings.{role}.origin")
    try:
        Recipe.model_validate(run["settings"]["recipe"])
    except ValidationError as err:
        raise CheckpointError(f"`{file}` is damaged or was changed: {fault(err, 'settings.recipe')}.", _FIX) from err
    return run


def is_whole(folder: Path, run: Mapping[str, Any]) -> bool:
    """Whether the network of a finished run is complete and intact."""
    digests = run.get("files", {})
    return all(digest_of_file(folder / name) == digests.get(name) for name in (WEIGHTS_FILE, FACTS_FILE))


def digest_of_file(path: Path) -> str | None:
    """The sha256 of a file; None if it cannot be read."""
    try:
        return sha256_of(path) if path.is_file() else None
    except OSError:  # the name is too long, or permission is denied
        return None


def command_of(run: Mapping[str, Any]) -> str | None:
    """The command of a run; None unless it is a plain graftcli command that is safe to show for pasting."""
    command = run["sessions"][-1].get("command")
    try:
        words = shlex.split(command or "")
    except ValueError:
        return None
    return command if words[:1] == ["graftcli"] and shlex.join(words) == command else None
