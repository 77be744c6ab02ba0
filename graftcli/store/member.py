"""A run's folder in the other processes of a job; the first process has opened and locked it."""

from collections.abc import Callable, Mapping
from pathlib import Path

from graftcli.store.cache_files import Cache
from graftcli.store.folder import CACHE, METRICS_FILE
from graftcli.store.metrics import append
from graftcli.store.unit_state import UnitState


class MemberStore:
    """The states and blocks of a run that another process of the same job has opened."""

    def __init__(self, folder: Path, rank: int, warn: Callable[[str], None] = lambda _: None) -> None:
        self.folder, self.cache = folder, Cache(folder / CACHE, warn, f"{rank}-")

    def unit(self, name: str) -> UnitState:
        """The state and the result of one task."""
        return UnitState(self.folder, name)

    def metric(self, record: Mapping[str, object]) -> None:
        """Append a line to metrics.jsonl."""
        append(self.folder / METRICS_FILE, record)
