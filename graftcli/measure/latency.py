"""Measure latencies after a warm-up and in turns, so that other load on the machine affects all networks alike."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

_WARM_UP = 3  # runs before measuring
_RUNS_PER_TURN = 5  # the first run is not counted, because the previous network has evicted the caches
_MIN_TURNS = 4  # regardless of the time limit
_MAX_TURNS = 100


@dataclass(frozen=True)
class Latency:
    """In milliseconds, over `runs` runs."""

    median: float
    p95: float
    runs: int


def measure_latencies(
    runs: Mapping[str, Callable[[], object]], seconds: float, on_progress: Callable[[float], None] = lambda _: None
) -> dict[str, Latency]:
    """The latency of each function, measured in turns for `seconds` per function in all.

    A function that times itself, for example in another process, returns its seconds as a float. `on_progress` is
    called with the share of the measurements that is done.
    """
    for run in runs.values():
        for _ in range(_WARM_UP):
            run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    budget, start = seconds * len(runs), time.perf_counter()
    for turn in range(_MAX_TURNS):
        spent = time.perf_counter() - start
        if turn >= _MIN_TURNS and spent > budget:
            break
        done = max(turn / _MAX_TURNS, min(turn / _MIN_TURNS, spent / budget)) if budget else turn / _MIN_TURNS
        on_progress(min(1.0, done))
        for name, run in runs.items():
            times[name] += _time_turn(run)
    on_progress(1.0)
    return {name: _summary(values) for name, values in times.items()}


def _time_turn(run: Callable[[], object]) -> list[float]:
    times = []
    for _ in range(_RUNS_PER_TURN):
        start = time.perf_counter()
        own_time = run()
        elapsed = time.perf_counter() - start
        times.append(own_time if isinstance(own_time, float) else elapsed)
    return times[1:]


def _summary(times: list[float]) -> Latency:
    median, p95 = np.percentile(np.array(times) * 1e3, (50, 95)).tolist()
    return Latency(median, p95, len(times))
