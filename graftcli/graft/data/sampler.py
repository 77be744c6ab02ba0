"""Selects the batch of views for each training step."""

import torch
from torch import Tensor


class Sampler:
    """Batches of view indices in an order that depends only on the seed, the task's name and the step.

    Each round is a new permutation without repeats. Views that do not fill the last batch of a round are dropped.
    """

    def __init__(self, views: int, batch: int, seed: int, name: str) -> None:
        self.views, self.batch = views, batch
        # below 2**63, because torch takes seeds below 2**64 and the number of the round or step is added
        self.seed = (seed * 1_000_003 + sum(ord(c) * 257**i for i, c in enumerate(name)) % 2**31) % 2**63
        self._round = -1
        self._order = torch.empty(0, dtype=torch.long)

    def at(self, step: int) -> Tensor:
        """Return the indices of the views of a step."""
        per_round = max(1, self.views // self.batch)
        number, position = divmod(step, per_round)
        if number != self._round:
            self._order = torch.randperm(self.views, generator=torch.Generator().manual_seed(self.seed + number))
            self._round = number
        return self._order[position * self.batch : (position + 1) * self.batch]
