"""Engine settings that affect the result of a run, besides networks, images and recipe."""

from dataclasses import dataclass, field

import torch

from graftcli.distributed.world import SINGLE, World
from graftcli.graft.backend.precision import Precision
from graftcli.graft.data.teacher_cache import Place


@dataclass(frozen=True)
class EngineSettings:
    """Settings that are fixed when a run starts, because they affect its result."""

    seed: int = 0
    world: World = SINGLE  # the processes that share the run
    precision: Precision = field(default_factory=lambda: Precision(torch.device("cpu")))
    memory: int = 2**32  # bytes of RAM for views and cached teacher features
    device_memory: int = 0  # bytes of an accelerator for images and cached teacher features
    disk: int = 0  # bytes of disk for cached teacher features
    memory_first: int | None = None  # bytes of `memory` to use before the disk; None: all
    blocks: tuple[int, ...] | None = None  # blocks to replace; None: all
    max_drawn_bytes: int = 2**28  # limit of `drawn_bytes`
    layer_view_bytes: int = 2**31  # for the views of a layer-wise stage; a constant, because it determines their number

    @property
    def drawn_bytes(self) -> int:
        """Bytes of RAM for cached views, before normalisation."""
        return min(self.memory // 8, self.max_drawn_bytes)

    @property
    def memory_first_bytes(self) -> int:
        """Bytes of RAM that are used before the disk."""
        return self.memory if self.memory_first is None else min(self.memory_first, self.memory)

    def cache_budgets(self, used: int = 0, shares: int = 1, on_device: int = 0) -> list[tuple[Place, int]]:
        """Return the storage places for cached teacher features in order, with the bytes of each of `shares` equal
        caches.

        `used` bytes of memory and `on_device` bytes of the accelerator are already taken.
        """
        remaining = max(0, self.memory - used)
        first = max(0, self.memory_first_bytes - used)
        budgets: list[tuple[Place, int]] = [("memory", first), ("disk", self.disk), ("memory", remaining - first)]
        if self.device_memory:
            budgets.insert(0, ("device", max(0, self.device_memory - on_device)))
        return [(place, size // shares) for place, size in budgets]
