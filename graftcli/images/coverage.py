"""Summarise a teacher's predictions on images: classes covered, confidence, dominant classes."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

UNSURE = 0.5  # confidence below which a prediction counts as a guess
_LISTED = 10


@dataclass(frozen=True)
class ClassShare:
    """A class and the images that the teacher predicts it for."""

    index: int
    name: str
    images: int
    share: float


@dataclass(frozen=True)
class Coverage:
    """The teacher's top-1 predictions; confidence is their softmax probability."""

    teacher: str
    images: int
    classes: int
    covered: int
    confidence: float  # the median
    confidence_low: float  # the 10th percentile
    unsure: int  # images below UNSURE
    non_finite: int  # images with NaN or infinite logits
    dominant: tuple[ClassShare, ...]  # by frequency, descending
    missing: tuple[str, ...]  # classes predicted for no image, by index
    trained: bool  # False if the weights are random, so that the predictions are meaningless


class Predictions:
    """Top-1 predictions, collected batch by batch: a few bytes per image."""

    def __init__(self) -> None:
        # arrays, because many small tensors between large temporary ones fragment the heap
        self._classes, self._confidence = array("i"), array("f")
        self._broken = 0
        self._num_classes = 0

    def add(self, logits: Tensor) -> None:
        """Add a batch of logits [images, classes]."""
        self._num_classes = logits.shape[1]
        finite = logits.isfinite().all(1)
        self._broken += int((~finite).sum())
        best = logits[finite].float().softmax(1).max(1)
        self.add_classes(best.indices, best.values, logits.shape[1])

    def add_classes(self, classes: Tensor, confidence: Tensor, num_classes: int) -> None:
        """Add predictions that were computed before."""
        self._num_classes = num_classes
        self._classes.frombytes(classes.to(torch.int32).numpy().tobytes())
        self._confidence.frombytes(confidence.float().numpy().tobytes())

    def coverage(self, teacher: str, names: Sequence[str] | None, trained: bool) -> Coverage:
        """Summarise all predictions."""
        classes = torch.tensor(self._classes, dtype=torch.long)
        confidence = torch.tensor(self._confidence, dtype=torch.float32)
        counts = torch.bincount(classes, minlength=self._num_classes)
        labels = [names[i] if names else str(i) for i in range(self._num_classes)]
        order = counts.argsort(descending=True, stable=True)[:_LISTED].tolist()
        shares = [ClassShare(i, labels[i], int(counts[i]), int(counts[i]) / len(classes)) for i in order if counts[i]]
        low, median = np.quantile(confidence.numpy(), (0.1, 0.5)).tolist() if len(confidence) else (0.0, 0.0)
        return Coverage(
            teacher=teacher,
            images=len(classes) + self._broken,
            classes=self._num_classes,
            covered=int((counts > 0).sum()),
            confidence=median,
            confidence_low=low,
            unsure=int((confidence < UNSURE).sum()),
            non_finite=self._broken,
            dominant=tuple(shares),
            missing=tuple(labels[i] for i in range(self._num_classes) if not counts[i]),
            trained=trained,
        )
