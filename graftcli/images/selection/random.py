"""Random images, each with the same probability."""

from collections.abc import Sequence

from graftcli.images.selection.method import Candidate, Method, Pool


class _RandomPool(Pool):
    """The candidates of the lowest rank."""

    def __init__(self, count: int, seed: int) -> None:
        super().__init__(count, seed)
        self._kept: dict[bytes, Candidate] = {}

    def add(self, candidates: Sequence[Candidate]) -> None:
        """Look at a batch of images."""
        self._kept |= {one.rank(self.seed): one for one in candidates}
        if len(self._kept) > 2 * self.room:
            self._kept = {rank: self._kept[rank] for rank in sorted(self._kept)[: self.room]}

    def ordered(self) -> list[Candidate]:
        """The candidates by rank."""
        return [self._kept[rank] for rank in sorted(self._kept)[: self.room]]


RANDOM = Method("random", "any images", _RandomPool, needs_teacher=False)
