"""Images that differ most in the teacher's features: a greedy k-centre, in one pass.

The pool holds candidates that are at least `radius` apart. An image that is nearer to one of them is passed over, and
when the pool is full the radius grows, so every image of the source stays near a candidate (Charikar et al., 1997).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from graftcli.images.selection.method import Candidate, Method, Pool, without_copies

_GROWTH = 1.5  # of the radius when the pool is full
_LEAST_ROOM = 1024

Array = NDArray[np.float32]


class _DiversePool(Pool):
    """Candidates that are far from each other."""

    def __init__(self, count: int, seed: int) -> None:
        super().__init__(count, seed)
        self._limit = max(_LEAST_ROOM, self.room)
        self._kept: list[Candidate] = []
        self._features: Array | None = None  # of the candidates; rows beyond them are free
        self._radius = 0.0

    def add(self, candidates: Sequence[Candidate]) -> None:
        """Look at a batch of images."""
        for one in sorted(candidates, key=lambda one: one.rank(self.seed)):
            if one.feature is not None:
                self._consider(one, one.feature)

    def _consider(self, one: Candidate, feature: Array) -> None:
        if self._features is None:
            self._features = np.zeros((self._limit + 1, len(feature)), np.float32)
        if self._radius > 0 and float(_distances(self._features[: len(self._kept)], feature).min()) < self._radius:
            return
        self._features[len(self._kept)] = feature
        self._kept.append(one)
        if len(self._kept) > self._limit:
            self._thin(self._features)

    def _thin(self, features: Array) -> None:
        """Grow the radius until the candidates that are that far apart fill at most the pool."""
        while len(self._kept) > self._limit:
            nearest = _nearest_neighbours(features[: len(self._kept)])
            self._radius = max(self._radius * _GROWTH, float(np.quantile(nearest, 0.1)), 1e-6)
            rows: list[int] = []
            for row in range(len(self._kept)):
                if not rows or float(_distances(features[rows], features[row]).min()) >= self._radius:
                    rows.append(row)
            features[: len(rows)] = features[rows]
            self._kept = [self._kept[row] for row in rows]

    def ordered(self) -> list[Candidate]:
        """Each image is the one that is farthest from those before it."""
        candidates = sorted(without_copies(self._kept), key=lambda one: one.rank(self.seed))
        if not candidates:
            return []
        features = np.stack([one.feature for one in candidates if one.feature is not None])
        order, nearest = [0], _distances(features, features[0])
        for _ in range(min(self.room, len(candidates)) - 1):
            nearest[order[-1]] = -1
            order.append(int(nearest.argmax()))
            nearest = np.minimum(nearest, _distances(features, features[order[-1]]))
        return [candidates[number] for number in order]


def _distances(features: Array, feature: Array) -> Array:
    distances: Array = np.sqrt(np.maximum(0, 2 - 2 * (features @ feature)))  # of vectors of length 1
    return distances


def _nearest_neighbours(features: Array) -> Array:
    """The distance of each row to the nearest other one, a block of rows at a time."""
    found = []
    for start in range(0, len(features), 256):
        similar = features[start : start + 256] @ features.T
        similar[np.arange(len(similar)), np.arange(start, start + len(similar))] = -1
        found.append(np.sqrt(np.maximum(0, 2 - 2 * similar.max(1))))
    return np.concatenate(found)


DIVERSE = Method("diverse", "those that differ most in the teacher's features", _DiversePool)
