"""On which device a run computes, and in which numbers."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Precision:
    device: torch.device
    amp: bool = False
    compile: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """Of what is remembered: no more than was computed."""
        return torch.bfloat16 if self.amp else torch.float32

    def autocast(self) -> torch.autocast:
        """Within it, convolutions and the like compute in bfloat16 where the run is asked to."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp)
