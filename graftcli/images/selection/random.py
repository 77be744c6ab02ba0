"""Random images, each with the same probability."""

from collections.abc import Sequence

from graftcli.images.selection.method import CandidateImage, Pool, SelectionMethod


class _RandomPool(Pool):
    """The candidates with the lowest random ranks."""

    def __init__(self, count: int, seed: int) -> None:
        super().__init__(count, seed)
        self._kept: dict[bytes, CandidateImage] = {}

    def add(self, candidates: Sequence[CandidateImage]) -> None:
        """Add a batch of images, and keep those with the lowest ranks."""
        self._kept |= {one.rank(self.seed): one for one in candidates}
        if len(self._kept) > 2 * self.capacity:
            self._kept = {rank: self._kept[rank] for rank in sorted(self._kept)[: self.capacity]}

    def ordered(self) -> list[CandidateImage]:
        """The candidates by rank."""
        return [self._kept[rank] for rank in sorted(self._kept)[: self.capacity]]


RANDOM = SelectionMethod("random", "any images", _RandomPool, needs_teacher=False)
