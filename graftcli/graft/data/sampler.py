"""Which views a step sees."""

import torch
from torch import Tensor


class Sampler:
    """The views in an order that depends on seed, task and step alone, in rounds of whole batches.

    None is seen twice in a round; in each one others are left out where the batch does not divide their number.
    """

    def __init__(self, views: int, batch: int, seed: int, name: str) -> None:
        self.views, self.batch = views, batch
        # torch takes seeds below 2**64: there is room for the number of the round and of the step
        self.seed = (seed * 1_000_003 + sum(ord(c) * 257**i for i, c in enumerate(name)) % 2**31) % 2**63
        self._round = -1
        self._order = torch.empty(0, dtype=torch.long)

    def at(self, step: int) -> Tensor:
        per_round = max(1, self.views // self.batch)
        number, place = divmod(step, per_round)
        if number != self._round:
            self._order = torch.randperm(self.views, generator=torch.Generator().manual_seed(self.seed + number))
            self._round = number
        return self._order[place * self.batch : (place + 1) * self.batch]
