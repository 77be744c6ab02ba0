"""Device and numeric precision of a run."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Precision:
    """Where and in which dtype a run computes."""

    device: torch.device
    amp: bool = False
    compile: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of cached features: that of the computation."""
        return torch.bfloat16 if self.amp else torch.float32

    def autocast(self) -> torch.autocast:
        """Autocast to bfloat16 when `amp` is on."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp)
