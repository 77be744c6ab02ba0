"""Works measured in turns."""

from graftcli.measure import latency
from graftcli.measure.latency import in_turns


def test_works_take_turns_and_each_runs_as_often_as_the_others() -> None:
    ran: list[str] = []
    found = in_turns({name: (lambda name=name: ran.append(name)) for name in "ab"}, seconds=0)  # type: ignore[misc]
    warm, measured = ran[: 2 * latency._WARM], ran[2 * latency._WARM :]
    assert warm == ["a"] * latency._WARM + ["b"] * latency._WARM
    turn = ["a"] * latency._TURN + ["b"] * latency._TURN
    assert measured == turn * latency._LEAST
    assert found["a"].runs == found["b"].runs == (latency._TURN - 1) * latency._LEAST


def test_the_median_is_below_the_tail_and_the_slower_work_is_slower() -> None:
    def slow() -> None:
        sum(range(200_000))

    found = in_turns({"slow": slow, "quick": lambda: None}, seconds=0.01)
    assert found["slow"].median > 10 * found["quick"].median
    assert all(one.median <= one.p95 for one in found.values())


def test_progress_rises_to_one() -> None:
    heard: list[float] = []
    in_turns({"a": lambda: None}, seconds=0.05, told=heard.append)
    assert heard == sorted(heard) and heard[0] == 0 and heard[-1] == 1
