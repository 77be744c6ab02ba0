"""The types of run.json: the settings that determine a run, its sessions and its result.

A record is untrusted input: scalars are strict, and have bounds. `run_file` reads and writes it.
"""

import shlex
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_serializer, model_validator

from graftcli.images.pixels import Preprocess
from graftcli.models.cuts.foldability import KeptAdapter
from graftcli.recipe import Recipe

FORMAT: Final = 2

Count = Annotated[int, Field(strict=True, ge=0, le=2**63)]
Seconds = Annotated[float, Field(strict=True, ge=0, le=1e12, allow_inf_nan=False)]
Share = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]
Block = Annotated[int, Field(strict=True, ge=1, le=10_000)]
Document = dict[str, JsonValue]
_Device = Annotated[str, Field(pattern=r"^(cpu|mps|cuda(:\d{1,3})?)$")]
_NetworkFile = Annotated[
    str, Field(pattern=r"^(model\.safetensors|graft\.json|config\.json|blocks/[\w-]{1,200}\.safetensors)$")
]


def now() -> str:
    """The time in UTC, as sortable text."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NetworkIdentity(_Part):
    """A network of a run: `origin` rebuilds its architecture, `weights` is the digest of its weights."""

    name: str
    origin: Document
    weights: str


class CutNames(_Part):
    """The modules before the cuts of both networks."""

    teacher: tuple[str, ...]
    student: tuple[str, ...]


class RunSettings(_Part):
    """Everything that determines the result of a run; a run is resumed only with equal settings."""

    teacher: NetworkIdentity
    student: NetworkIdentity
    cuts: CutNames
    blocks: Annotated[tuple[Block, ...], Field(min_length=1)]
    frozen: tuple[Block, ...]
    images: str  # digests
    val_images: str | None
    extra_images: str | None = None
    preprocess: Preprocess
    recipe: Recipe
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**63)]
    device: str
    amp: Flag
    compile: Flag
    cache_gb: Annotated[float, Field(strict=True, ge=0)] | None
    device_cache_gb: Annotated[float, Field(strict=True, ge=0)] | None = None

    @field_serializer("recipe")
    def _recipe(self, recipe: Recipe) -> Document:
        return recipe.model_dump(mode="json")

    @property
    def block_count(self) -> int:
        """The number of blocks of each network."""
        return len(self.cuts.student) + 1

    @property
    def replaces_all_blocks(self) -> bool:
        """Whether all blocks are replaced."""
        return len(self.blocks) == self.block_count


class Session(_Part):
    """One process that worked on a run; `config` is the user's config."""

    started: str = Field(default_factory=now)
    host: str = Field(default_factory=socket.gethostname)
    config: Document = {}
    command: str | None = None
    versions: dict[str, str | None] = {}
    warnings: tuple[str, ...] = ()
    seconds: Seconds = 0.0
    peak_memory: Count = 0

    @property
    def plain_command(self) -> str | None:
        """The command; None unless it is a plain graftcli command that is safe to show for pasting."""
        try:
            words = shlex.split(self.command or "")
        except ValueError:
            return None
        return self.command if words[:1] == ["graftcli"] and shlex.join(words) == self.command else None


class FixedSettings(_Part):
    """Settings that depend on the machine: fixed when the run starts, the same in each session."""

    memory: Count
    device_memory: Count = 0
    disk: Count
    at_once: Count | None
    threads: Annotated[int, Field(strict=True, ge=1, le=4096)]
    device: _Device


@dataclass(frozen=True)
class Setback:
    """A task whose training lowered the agreement, and the share of the weight change that is kept."""

    unit: str
    before: Share  # agreement, on views of held-out images or unseen views of the training images
    after: Share
    kept: Share
    fraction: Share  # share of the weight change that is kept; 0 restores the weights before the task
    stopped: Count | None  # step of early stopping, if the task lost agreement at every score


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """The figures of a finished run."""

    teacher: str
    student: str
    blocks: tuple[Block, ...]
    params: tuple[Count, Count]  # of the teacher, of the result
    macs: tuple[Count, Count]
    unmerged: tuple[Count, Count]  # parameters and MACs of the result before its adapters are merged
    kept: tuple[KeptAdapter, ...]  # the adapters that stay layers
    bytes: tuple[Count, Count]  # size of the weights: of the teacher, of the result
    stock: Flag
    agreement: Share | None  # with the teacher, on views of held-out images; None without held-out images
    kl: Number | None  # KL(teacher || result) on the views of the agreement, in nats
    held_out: Count
    images: Count  # training images
    frozen: tuple[Block, ...]  # blocks that equal the teacher's and were not trained
    setbacks: tuple[Setback, ...]
    merge_errors: tuple[Number, Number]  # relative to the largest logit, in float64 and float32
    seconds: Seconds  # of all sessions
    peak_memory: Count  # bytes, maximum over the sessions


class RunRecord(_Part):
    """The content of run.json."""

    format: Literal[2] = FORMAT
    status: Literal["running", "finished"] = "running"
    settings: RunSettings
    sessions: Annotated[tuple[Session, ...], Field(min_length=1)]
    fixed: FixedSettings | None = None
    singles: dict[str, str | None] = {}  # single files that the run writes in addition, with their SHA-256
    ended: str | None = None
    result: RunResult | None = None
    files: dict[_NetworkFile, str] = {}  # the SHA-256 of each file of a finished run

    @model_validator(mode="after")
    def _finished_has_result(self) -> Self:
        if (self.status == "finished") != (self.result is not None):
            raise ValueError("a run has a `result` when it is finished, and only then")
        return self

    @property
    def session(self) -> Session:
        """The last session."""
        return self.sessions[-1]

    @property
    def last_activity(self) -> str:
        """The last time that the run was started, resumed or finished, as sortable text."""
        return max(self.ended or "", self.session.started)

    def with_session(self, **changes: object) -> Self:
        """A copy with changes of the last session."""
        return self.model_copy(update={"sessions": (*self.sessions[:-1], self.session.model_copy(update=changes))})
