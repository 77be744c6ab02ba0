"""As many images of each class as there are, by the teacher's own predictions: no label is read."""

from collections.abc import Sequence
from itertools import zip_longest

from graftcli.images.selection.method import Candidate, Method, Pool


class _BalancedPool(Pool):
    """Candidates by predicted class; where there are too many, the largest class gives up those of the highest rank."""

    def __init__(self, count: int, seed: int) -> None:
        super().__init__(count, seed)
        self._classes: dict[int, dict[bytes, Candidate]] = {}

    def add(self, candidates: Sequence[Candidate]) -> None:
        """Look at a batch of images."""
        for one in candidates:
            if one.label is not None:
                self._classes.setdefault(one.label, {})[one.rank(self.seed)] = one
        if sum(map(len, self._classes.values())) > 2 * self.room:
            self._trim()

    def _trim(self) -> None:
        """Keep as many of each class as fit if all classes get the same room."""
        sizes, left, most = sorted(map(len, self._classes.values())), self.room, 0
        for number, size in enumerate(sizes):
            most = max(1, left // (len(sizes) - number))
            left -= min(size, most)
        for label, kept in self._classes.items():
            self._classes[label] = {rank: kept[rank] for rank in sorted(kept)[:most]}

    def ordered(self) -> list[Candidate]:
        """One image of each class in turn; the classes with fewest images first."""
        lines = [[kept[rank] for rank in sorted(kept)] for kept in self._classes.values()]
        lines.sort(key=lambda line: (len(line), line[0].rank(self.seed)))
        return [one for turn in zip_longest(*lines) for one in turn if one is not None]


BALANCED = Method("balanced", "as many of each class that the teacher predicts", _BalancedPool)
