"""What decides a run's result beside networks, images and recipe."""

from dataclasses import dataclass, field

import torch

from graftcli.graft.backend.precision import Precision
from graftcli.graft.data.teacher_cache import Place


@dataclass(frozen=True)
class EngineSettings:
    """What else decides the result, fixed when a run starts."""

    seed: int = 0
    precision: Precision = field(default_factory=lambda: Precision(torch.device("cpu")))
    memory: int = 2**32  # bytes for what is remembered
    disk: int = 0
    at_once: int | None = None  # of the memory, that are taken before the disk is; None: all
    blocks: tuple[int, ...] | None = None  # only these are replaced
    most_drawn: int = 2**28  # bytes for views as they were drawn
    layer_views: int = 2**31  # bytes for the views of a layer-wise stage: fixed, because it decides how many there are

    @property
    def drawn(self) -> int:
        """Bytes for views that are remembered as they were drawn."""
        return min(self.memory // 8, self.most_drawn)

    def rooms(self, taken: int = 0, among: int = 1) -> list[tuple[Place, int]]:
        """Where there is room for what is remembered, beside what is `taken` of the memory, for one `among` several."""
        at_once = self.memory if self.at_once is None else min(self.at_once, self.memory)
        left = max(0, self.memory - taken)
        first = max(0, at_once - taken)
        whole: list[tuple[Place, int]] = [("memory", first), ("disk", self.disk), ("memory", left - first)]
        return [(place, size // among) for place, size in whole]
