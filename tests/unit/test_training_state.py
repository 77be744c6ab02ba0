"""The state of a task: averages, copies, and losses that diverge."""

import math

import pytest
import torch
from torch import nn

from graftcli.graft.training.state import LossTracker, TrainState, restore, state_of


def tracker(average: float, at_start: float) -> LossTracker:
    return LossTracker.restored({"average": average, "at_start": at_start}, torch.device("cpu"))


def test_a_state_is_a_copy_and_gives_everything_back() -> None:
    layer = nn.Linear(3, 2)
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.1)
    train_state = TrainState(7, tracker(0.5, 0.9), True, {"weight": torch.ones(2, 3)})
    layer(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    state = state_of(layer, optimiser, train_state)
    before = layer.weight.detach().clone()
    optimiser.step()
    assert not torch.equal(layer.weight, before)
    again = restore(state, layer, optimiser)
    assert torch.equal(layer.weight, before)
    assert (again.step, again.loss.read(), again.halved) == (7, {"average": 0.5, "at_start": 0.9}, True)
    again.ema["weight"].zero_()
    optimiser.step()
    assert torch.equal(state["slow"]["weight"], torch.ones(2, 3))
    assert torch.equal(state["weights"]["weight"], before)


def test_averaged_weights_take_the_place_of_the_last() -> None:
    layer, train_state = nn.Linear(1, 1, bias=False), TrainState()
    for train_state.step, value in enumerate((1.0, 2.0, 4.0)):
        layer.weight.data.fill_(value)
        train_state.average(0.5, layer)
    # decays min(0.5, (1 + step) / (10 + step)): 2/11, then 3/12
    first = 1 * 2 / 11 + 2 * 9 / 11
    train_state.use_average(layer)
    assert layer.weight.item() == pytest.approx(first * 3 / 12 + 4 * 9 / 12)


def test_without_averages_the_last_weights_stay() -> None:
    layer, train_state = nn.Linear(1, 1, bias=False), TrainState()
    train_state.average(None, layer)
    kept = layer.weight.item()
    train_state.use_average(layer)
    assert layer.weight.item() == kept


@pytest.mark.parametrize(
    ("loss", "step", "value", "diverged"),
    [
        (tracker(1.0, 1.0), 3, math.nan, True),
        (tracker(1.0, 1.0), 3, math.inf, True),
        (tracker(30.0, 1.0), 10, 30.0, False),  # it is still settling
        (tracker(30.0, 1.0), 100, 30.0, True),
        (tracker(1e-5, 1e-12), 100, 1e-5, False),  # from nothing to nothing
    ],
)
def test_a_loss_has_diverged(loss: LossTracker, step: int, value: float, diverged: bool) -> None:
    assert loss.has_diverged(step, value) is diverged


def test_a_loss_that_was_not_finite_between_two_marks_has_diverged() -> None:
    loss = tracker(1.0, 1.0).after(3, torch.tensor(math.inf)).after(4, torch.tensor(1.0))
    assert loss.has_diverged(5, 1.0) and not tracker(1.0, 1.0).has_diverged(5, 1.0)
    assert not LossTracker().has_diverged(0)
