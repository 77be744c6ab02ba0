"""The stored state of one unit of a run."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from graftcli.store.atomic import read_facts, read_state, read_tensors, write_state, write_tensors, writing
from graftcli.store.folder import BLOCKS, STATES


class UnitState:
    """The weights or the training state of one unit in a run's folder."""

    def __init__(
        self,
        folder: Path,
        name: str,
        after_write: Callable[[], None] = lambda: None,
        before_write: Callable[[], None] = lambda: None,
    ) -> None:
        """`before_write` and `after_write` are called around each write of a state or of the final weights."""
        self._after_write, self._before_write = after_write, before_write
        self._block = folder / BLOCKS / f"{name}.safetensors"
        self._state = folder / STATES / f"{name}.safetensors"

    @property
    def finished(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The final weights and facts of a finished unit; None for an unfinished one."""
        return read_tensors(self._block) if self._block.exists() else None

    @property
    def step(self) -> float:
        """The step to resume from: -1 without a saved state, infinity for a finished unit."""
        if self._block.exists():
            return math.inf
        step = read_facts(self._state)["step"] if self._state.exists() else -1
        assert isinstance(step, int)  # `keep` has written it
        return step

    @property
    def state(self) -> dict[str, Any] | None:
        """The last saved state, bit for bit, on the CPU; None if there is none."""
        return read_state(self._state) if self._state.exists() else None

    def keep(self, step: int, state: Mapping[str, object]) -> None:
        """Save the state after `step`: nested dicts, lists and tuples of tensors and numbers."""
        self._before_write()
        write_state(self._state, state, {"step": step})
        self._after_write()

    def finish(self, tensors: Mapping[str, Tensor], facts: Mapping[str, object]) -> None:
        """Write the final weights and remove the state."""
        self._before_write()
        write_tensors(self._block, tensors, facts)
        with writing(self._state):
            self._state.unlink(missing_ok=True)
        self._after_write()
