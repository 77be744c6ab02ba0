"""Assign independent work to the processes of a job."""

from collections.abc import Sequence


def deal(costs: Sequence[float], size: int) -> list[int]:
    """Return the process that does each piece of work: longest first, each to the process with the least work so far.

    The result is the same in every process. The total time is at most 4/3 of the optimum (Graham, 1969).
    """
    owners, loads = [0] * len(costs), [0.0] * size
    for number in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        owner = min(range(size), key=lambda rank: (loads[rank], rank))
        owners[number], loads[owner] = owner, loads[owner] + costs[number]
    return owners
