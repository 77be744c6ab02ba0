"""What a teacher predicts over images: which of its classes they cover, how sure it is, which classes dominate."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

UNSURE = 0.5  # confidence below which the teacher's first answer is rather a guess
_LISTED = 10


@dataclass(frozen=True)
class ClassShare:
    """A class and the images for which it is the teacher's first answer."""

    index: int
    name: str
    images: int
    share: float


@dataclass(frozen=True)
class Coverage:
    """The teacher's first answers; confidence is their softmax probability."""

    teacher: str
    images: int
    classes: int
    covered: int
    confidence: float  # the median
    confidence_low: float  # a tenth of the images have less
    unsure: int  # images below UNSURE
    broken_answers: int  # images that the teacher answers with NaN or infinity
    dominant: tuple[ClassShare, ...]  # the most frequent first
    missing: tuple[str, ...]  # the classes that no image is taken for, in their order
    trained: bool  # False: the weights are random, and all of this means nothing


class Predictions:
    """First answers, gathered batch by batch: five bytes an image."""

    def __init__(self) -> None:
        self._classes: list[Tensor] = []
        self._confidence: list[Tensor] = []
        self._broken = 0
        self._width = 0

    def add(self, logits: Tensor) -> None:
        self._width = logits.shape[1]
        finite = logits.isfinite().all(1)
        self._broken += int((~finite).sum())
        best = logits[finite].float().softmax(1).max(1)
        self._classes.append(best.indices.to(torch.int32))
        self._confidence.append(best.values)

    def coverage(self, teacher: str, names: Sequence[str] | None, trained: bool) -> Coverage:
        answers = torch.cat(self._classes).long()
        sure = torch.cat(self._confidence)
        counts = torch.bincount(answers, minlength=self._width)
        called = [names[i] if names else str(i) for i in range(self._width)]
        order = counts.argsort(descending=True, stable=True)[:_LISTED].tolist()
        shares = [ClassShare(i, called[i], int(counts[i]), int(counts[i]) / len(answers)) for i in order if counts[i]]
        low, middle = np.quantile(sure.numpy(), (0.1, 0.5)).tolist() if len(sure) else (0.0, 0.0)
        return Coverage(
            teacher=teacher,
            images=len(answers) + self._broken,
            classes=self._width,
            covered=int((counts > 0).sum()),
            confidence=middle,
            confidence_low=low,
            unsure=int((sure < UNSURE).sum()),
            broken_answers=self._broken,
            dominant=tuple(shares),
            missing=tuple(called[i] for i in range(self._width) if not counts[i]),
            trained=trained,
        )
