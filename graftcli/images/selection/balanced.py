"""Select equally many images of each class that the teacher predicts; no labels are read."""

from collections.abc import Sequence
from itertools import zip_longest

from graftcli.images.selection.method import CandidateImage, Pool, SelectionMethod


class _BalancedPool(Pool):
    """Candidates by predicted class; if there are too many, those of the highest rank leave the largest classes."""

    def __init__(self, count: int, seed: int) -> None:
        super().__init__(count, seed)
        self._classes: dict[int, dict[bytes, CandidateImage]] = {}

    def add(self, candidates: Sequence[CandidateImage]) -> None:
        """Add a batch of images by predicted class."""
        for candidate in candidates:
            if candidate.label is not None:
                self._classes.setdefault(candidate.label, {})[candidate.rank(self.seed)] = candidate
        if sum(map(len, self._classes.values())) > 2 * self.capacity:
            self._trim()

    def _trim(self) -> None:
        """Divide the capacity equally among the classes, and drop the candidates that exceed it."""
        sizes, left, most = sorted(map(len, self._classes.values())), self.capacity, 0
        for number, size in enumerate(sizes):
            most = max(1, left // (len(sizes) - number))
            left -= min(size, most)
        for label, kept in self._classes.items():
            self._classes[label] = {rank: kept[rank] for rank in sorted(kept)[:most]}

    def ordered(self) -> list[CandidateImage]:
        """One image of each class in turn; the classes with fewest images first."""
        lines = [[kept[rank] for rank in sorted(kept)] for kept in self._classes.values()]
        lines.sort(key=lambda line: (len(line), line[0].rank(self.seed)))
        return [candidate for turn in zip_longest(*lines) for candidate in turn if candidate is not None]


BALANCED = SelectionMethod("balanced", "as many of each class that the teacher predicts", _BalancedPool)
