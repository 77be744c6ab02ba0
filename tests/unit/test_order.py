"""The order of the views is a function of seed, task and step."""

import torch

from graftcli.graft.data.sampler import Sampler


def test_all_views_are_seen_before_one_is_seen_again() -> None:
    order = Sampler(24, 8, 0, "graft-1")
    for first in (0, 3):
        seen = torch.cat([order.at(step) for step in range(first, first + 3)])
        assert sorted(seen.tolist()) == list(range(24))


def test_a_step_sees_the_same_views_wherever_the_run_begins() -> None:
    through = [Sampler(24, 8, 0, "graft-1").at(step) for step in range(7)]
    order = Sampler(24, 8, 0, "graft-1")
    assert all(torch.equal(order.at(step), through[step]) for step in (6, 2, 5, 0))


def test_any_seed_is_one_that_torch_takes() -> None:
    orders = [Sampler(1000, 8, seed, "graft-1").at(0) for seed in (2**62, 2**62 - 1)]
    assert not torch.equal(*orders)


def test_seeds_and_tasks_see_other_orders() -> None:
    orders = [Sampler(1000, 8, seed, name).at(0) for seed, name in ((0, "graft-1"), (1, "graft-1"), (0, "graft-2"))]
    assert not torch.equal(orders[0], orders[1]) and not torch.equal(orders[0], orders[2])
