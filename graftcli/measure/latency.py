"""How long networks take, measured fairly: warmed up, in turns, so that what else the machine does meets all alike."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

_WARM = 3  # runs before anything is measured
_TURN = 5  # runs in a row, of which the first is not counted: what ran before has emptied the caches
_LEAST = 4  # turns, however long they take
_MOST = 100


@dataclass(frozen=True)
class Latency:
    """In milliseconds, of `runs` runs."""

    median: float
    p95: float
    runs: int


def in_turns(
    works: Mapping[str, Callable[[], object]], seconds: float, told: Callable[[float], None] = lambda _: None
) -> dict[str, Latency]:
    """The latency of each work, measured in turns until all have had `seconds` each, by their share of the turns.

    A work that returns a float has measured itself, as one does that runs in another process: the float is its
    seconds. `told` hears the share of the measuring that is done.
    """
    for work in works.values():
        for _ in range(_WARM):
            work()
    times: dict[str, list[float]] = {name: [] for name in works}
    budget, began = seconds * len(works), time.perf_counter()
    for turn in range(_MOST):
        spent = time.perf_counter() - began
        if turn >= _LEAST and spent > budget:
            break
        told(min(1.0, max(turn / _MOST, min(turn / _LEAST, spent / budget))) if budget else turn / _LEAST)
        for name, work in works.items():
            times[name] += _turn(work)
    told(1.0)
    return {name: _summary(found) for name, found in times.items()}


def _turn(work: Callable[[], object]) -> list[float]:
    times = []
    for _ in range(_TURN):
        began = time.perf_counter()
        own = work()
        taken = time.perf_counter() - began
        times.append(own if isinstance(own, float) else taken)
    return times[1:]


def _summary(times: list[float]) -> Latency:
    median, p95 = np.percentile(np.array(times) * 1e3, (50, 95)).tolist()
    return Latency(median, p95, len(times))
