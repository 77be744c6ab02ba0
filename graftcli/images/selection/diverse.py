"""Images that represent all others in the teacher's features, in one pass.

The pool holds candidates that are at least `radius` apart. An image that is nearer to one of them is counted with it,
and when the pool is full the radius grows, so every image of the source stays near a candidate (Charikar et al., 1997).
In the end those are chosen to which all images are as near as possible. The farthest ones, a k-centre, are outliers: on
CIFAR-10 they train worse than random images.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from graftcli.images.selection.method import Candidate, Method, Pool

_GROWTH = 1.5  # of the radius when the pool is full
_LEAST_ROOM = 1024
_SAMPLE, _SIMILARITIES = 256, 2**20  # candidates of which each choice is the best; fewer in a large pool

Array = NDArray[np.float32]


class _DiversePool(Pool):
    """Candidates that are far from each other."""

    def __init__(self, count: int, seed: int) -> None:
        super().__init__(count, seed)
        self._limit = max(_LEAST_ROOM, self.room)
        self._kept: list[Candidate] = []
        self._features: Array | None = None  # of the candidates; rows beyond them are free
        self._counts = np.zeros(self._limit + 1, np.float32)  # images that each candidate stands for
        self._radius = 0.0

    def add(self, candidates: Sequence[Candidate]) -> None:
        """Look at a batch of images."""
        for one in sorted(candidates, key=lambda one: one.rank(self.seed)):
            if one.feature is not None:
                self._consider(one, one.feature)

    def _consider(self, one: Candidate, feature: Array) -> None:
        if self._features is None:
            self._features = np.zeros((self._limit + 1, len(feature)), np.float32)
        if self._radius > 0:
            distances = _distances(self._features[: len(self._kept)], feature)
            if float(distances.min()) < self._radius:
                self._counts[distances.argmin()] += 1
                return
        self._features[len(self._kept)], self._counts[len(self._kept)] = feature, 1
        self._kept.append(one)
        if len(self._kept) > self._limit:
            self._thin(self._features)

    def _thin(self, features: Array) -> None:
        """Grow the radius until the candidates that are that far apart fill at most the pool."""
        while len(self._kept) > self._limit:
            nearest = _nearest_neighbours(features[: len(self._kept)])
            self._radius = max(self._radius * _GROWTH, float(np.quantile(nearest, 0.1)), 1e-6)
            self._merge(features)

    def _merge(self, features: Array) -> None:
        """Drop each candidate that is near one before it."""
        rows: list[int] = []
        for row in range(len(self._kept)):
            distances = _distances(features[rows], features[row]) if rows else np.full(1, np.inf, np.float32)
            if float(distances.min()) < self._radius:
                self._counts[rows[int(distances.argmin())]] += self._counts[row]
            else:
                rows.append(row)
        features[: len(rows)], self._counts[: len(rows)] = features[rows], self._counts[rows]
        self._kept = [self._kept[row] for row in rows]

    def ordered(self) -> list[Candidate]:
        """Each image is the one that brings all images nearest to a chosen one, of a sample of candidates."""
        numbers = sorted(range(len(self._kept)), key=lambda number: self._kept[number].rank(self.seed))
        numbers = list({self._kept[number].digest: number for number in numbers}.values())
        if not numbers or self._features is None:
            return []
        order = _facility_location(self._features[numbers], self._counts[numbers], self.room, self.seed)
        return [self._kept[numbers[number]] for number in order]


def _facility_location(features: Array, weights: Array, count: int, seed: int) -> list[int]:
    """Greedily choose rows so that each row, counted by its weight, is similar to a chosen one.

    Each choice is the best of a random sample, which loses little (stochastic greedy, Mirzasoleiman et al., 2015).
    """
    size = max(8, min(_SAMPLE, _SIMILARITIES // len(features)))
    generator, left = np.random.default_rng(seed), np.ones(len(features), np.bool_)
    nearest = np.full(len(features), -1, np.float32)  # the similarity of each row to the nearest chosen one
    order: list[int] = []
    for _ in range(min(count, len(features))):
        sample = generator.permutation(np.flatnonzero(left))[:size]
        similar = features @ features[sample].T
        gains = weights @ np.maximum(0, similar - nearest[:, None])
        best = int(gains.argmax())
        nearest = np.maximum(nearest, similar[:, best])
        order.append(int(sample[best]))
        left[order[-1]] = False
    return order


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


DIVERSE = Method("diverse", "those that represent all others in the teacher's features", _DiversePool)
