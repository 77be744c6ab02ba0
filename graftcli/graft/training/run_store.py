"""The part of a run's folder that the task runner uses."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from graftcli.distributed.world import World
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


class SharedTask:
    """The stored state of a task that several processes share: the first one reads and writes it."""

    def __init__(self, unit: StoredTask, world: World) -> None:
        self._unit, self._world = unit, world

    @property
    def state(self) -> Mapping[str, object] | None:
        """The last kept state."""
        return self._world.of_first(lambda: self._unit.state)

    @property
    def finished(self) -> tuple[dict[str, Tensor], Mapping[str, Any]] | None:
        """The result of the finished task."""
        return self._world.of_first(lambda: self._unit.finished)

    def keep(self, step: int, state: Mapping[str, object]) -> None:
        """Keep the state after `step`, once."""
        if self._world.is_first:
            self._unit.keep(step, state)

    def finish(self, tensors: dict[str, Tensor], facts: Mapping[str, object]) -> None:
        """Store the result, once."""
        if self._world.is_first:
            self._unit.finish(tensors, facts)
