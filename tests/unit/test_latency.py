"""Works measured in turns."""

from graftcli.measure import latency
from graftcli.measure.latency import measure_latencies


def test_works_take_turns_and_each_runs_as_often_as_the_others() -> None:
    ran: list[str] = []
    found = measure_latencies({name: (lambda name=name: ran.append(name)) for name in "ab"}, seconds=0)  # type: ignore[misc]
    warm, measured = ran[: 2 * latency._WARM_UP], ran[2 * latency._WARM_UP :]
    assert warm == ["a"] * latency._WARM_UP + ["b"] * latency._WARM_UP
    turn = ["a"] * latency._RUNS_PER_TURN + ["b"] * latency._RUNS_PER_TURN
    assert measured == turn * latency._MIN_TURNS
    assert found["a"].runs == found["b"].runs == (latency._RUNS_PER_TURN - 1) * latency._MIN_TURNS


def test_the_median_is_below_the_tail_and_the_slower_work_is_slower() -> None:
    def slow() -> None:
        sum(range(200_000))

    found = measure_latencies({"slow": slow, "quick": lambda: None}, seconds=0.01)
    assert found["slow"].median > 10 * found["quick"].median
    assert all(one.median <= one.p95 for one in found.values())


def test_progress_rises_to_one() -> None:
    heard: list[float] = []
    measure_latencies({"a": lambda: None}, seconds=0.05, on_progress=heard.append)
    assert heard == sorted(heard) and heard[0] == 0 and heard[-1] == 1
