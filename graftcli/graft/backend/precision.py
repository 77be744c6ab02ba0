"""Device and numeric precision of a run."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch

from graftcli.graft.backend.depthwise import FastDepthwise


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

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Autocast to bfloat16 when `amp` is on, with a faster backward pass of depthwise convolutions on a CPU."""
        mode = FastDepthwise() if self.amp and self.device.type == "cpu" and not self.compile else nullcontext()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp), mode:
            yield
