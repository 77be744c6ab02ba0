"""Select images that best represent all others in the teacher's feature space, in one pass.

The pool holds candidates that are at least `radius` apart. An image closer than that to a candidate is counted with it.
When the pool is full, the radius grows; so every image stays near a candidate (Charikar et al., 1997). The result
minimises the distances of all images to the nearest selected one (facility location). Choosing the images that are
farthest apart (k-centre) selects outliers, which on CIFAR-10 train worse than random images.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from graftcli.images.selection.method import CandidateImage, Pool, SelectionMethod

_GROWTH = 1.5  # factor of the radius when the pool is full
_LEAST_ROOM = 1024
_SAMPLE, _SIMILARITIES = 256, 2**20  # size of the sample for each choice; smaller for a large pool

Array = NDArray[np.float32]


class _DiversePool(Pool):
    """Candidates that are far from each other."""

    def __init__(self, count: int, seed: int) -> None:
        super().__init__(count, seed)
        self._limit = max(_LEAST_ROOM, self.capacity)
        self._kept: list[CandidateImage] = []
        self._features: Array | None = None  # of the candidates; later rows are unused
        self._counts = np.zeros(self._limit + 1, np.float32)  # number of images that each candidate represents
        self._radius = 0.0

    def add(self, candidates: Sequence[CandidateImage]) -> None:
        """Add images that are far from all candidates, and count the others."""
        for candidate in sorted(candidates, key=lambda candidate: candidate.rank(self.seed)):
            if candidate.feature is not None:
                self._consider(candidate, candidate.feature)

    def _consider(self, candidate: CandidateImage, feature: Array) -> None:
        if self._features is None:
            self._features = np.zeros((self._limit + 1, len(feature)), np.float32)
        if self._radius > 0:
            distances = _distances(self._features[: len(self._kept)], feature)
            if float(distances.min()) < self._radius:
                self._counts[distances.argmin()] += 1
                return
        self._features[len(self._kept)], self._counts[len(self._kept)] = feature, 1
        self._kept.append(candidate)
        if len(self._kept) > self._limit:
            self._thin(self._features)

    def _thin(self, features: Array) -> None:
        """Increase the radius until the remaining candidates fit in the pool."""
        while len(self._kept) > self._limit:
            nearest = _nearest_neighbours(features[: len(self._kept)])
            self._radius = max(self._radius * _GROWTH, float(np.quantile(nearest, 0.1)), 1e-6)
            self._merge(features)

    def _merge(self, features: Array) -> None:
        """Drop each candidate that is within the radius of an earlier one."""
        rows: list[int] = []
        for row in range(len(self._kept)):
            distances = _distances(features[rows], features[row]) if rows else np.full(1, np.inf, np.float32)
            if float(distances.min()) < self._radius:
                self._counts[rows[int(distances.argmin())]] += self._counts[row]
            else:
                rows.append(row)
        features[: len(rows)], self._counts[: len(rows)] = features[rows], self._counts[rows]
        self._kept = [self._kept[row] for row in rows]

    def ordered(self) -> list[CandidateImage]:
        """The candidates, each chosen to bring all images as close as possible to a chosen one."""
        numbers = sorted(range(len(self._kept)), key=lambda number: self._kept[number].rank(self.seed))
        numbers = list({self._kept[number].digest: number for number in numbers}.values())
        if not numbers or self._features is None:
            return []
        order = _facility_location(self._features[numbers], self._counts[numbers], self.capacity, self.seed)
        return [self._kept[numbers[number]] for number in order]


def _facility_location(features: Array, weights: Array, count: int, seed: int) -> list[int]:
    """Greedily choose rows so that all rows, weighted, are similar to a chosen one.

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
    """The distance of each row to its nearest neighbour, computed in blocks of rows."""
    found = []
    for start in range(0, len(features), 256):
        similar = features[start : start + 256] @ features.T
        similar[np.arange(len(similar)), np.arange(start, start + len(similar))] = -1
        found.append(np.sqrt(np.maximum(0, 2 - 2 * similar.max(1))))
    return np.concatenate(found)


DIVERSE = SelectionMethod("diverse", "those that represent all others in the teacher's features", _DiversePool)
