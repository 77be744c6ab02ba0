"""How closely the logits of a file match those of PyTorch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]  # float32, or uint8 pixels
Runner = Callable[[Array], Array]  # inputs of the file -> logits


@dataclass(frozen=True)
class Match:
    """How closely the logits of a file match those of PyTorch."""

    error: float  # largest difference, relative to the largest logit of its batch
    agreement: float
    images: int


@dataclass(frozen=True)
class ParityCheck:
    """Batches of inputs for a file, each with the logits of the network in PyTorch."""

    batches: tuple[tuple[Array, Array], ...]

    def run(self, runner: Runner) -> Match:
        """Run a file on all batches and compare."""
        error, same, images = 0.0, 0, 0
        for inputs, expected in self.batches:
            logits = np.asarray(runner(inputs), dtype=np.float32)
            if logits.shape != expected.shape or not np.isfinite(logits).all():
                return Match(float("inf"), 0.0, sum(len(logits) for _, logits in self.batches))
            error = max(error, float(np.abs(logits - expected).max() / max(np.abs(expected).max(), 1e-12)))
            same += int((logits.argmax(1) == expected.argmax(1)).sum())
            images += len(expected)
        return Match(error, same / images, images)

    def subset(self, images: int) -> "ParityCheck":
        """The last batches, with at least `images` images if there are as many."""
        chosen: list[tuple[Array, Array]] = []
        for batch in reversed(self.batches):
            chosen.append(batch)
            if sum(len(logits) for _, logits in chosen) >= images:
                break
        return ParityCheck(tuple(chosen))
