"""What the task runner needs of the folder of a run."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from graftcli.graft.training.trainer import TaskStore
from graftcli.store.cache_files import Cache


class StoredTask(TaskStore, Protocol):
    """The stored state of a task, and its result once it is finished."""

    @property
    def finished(self) -> tuple[dict[str, Tensor], Mapping[str, Any]] | None:
        """The tensors and facts of a finished task; None for an unfinished one."""

    def finish(self, tensors: dict[str, Tensor], facts: Mapping[str, object]) -> None:
        """Store the result of a task."""


class RunStore(Protocol):
    """The interface of a run's folder that the engine uses."""

    @property
    def cache(self) -> Cache:
        """The files of the teacher's features and of synthetic images."""

    def unit(self, name: str) -> StoredTask:
        """The stored state of the task of this name."""

    def metric(self, record: Mapping[str, object]) -> None:
        """Append a record to the metrics of the run."""
