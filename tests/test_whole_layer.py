"""A layer solved for as a whole, against NumPy."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from graftcli.graft.adapters import rows
from graftcli.graft.counterparts import Layer, folded
from graftcli.graft.one_layer import Seen
from graftcli.graft.whole_layer import is_solvable, solve_whole
from tests.test_one_layer import layer, seen


@pytest.mark.parametrize("norm", [True, False])
def test_a_whole_layer_is_numpys_least_squares_of_what_it_sees(norm: bool) -> None:
    """Every weight of its kernels, and the bias of its norm; without one it has none."""
    made, views = layer(norm), seen()
    patches = [F.unfold(x, 3, padding=1).movedim(1, 2).flatten(0, 1) for x in views.own]
    given = torch.cat([torch.cat([x, torch.ones(len(x), norm, dtype=x.dtype)], 1) for x in patches])
    with torch.no_grad():
        wanted = torch.cat([rows(made.wanted(x), 1) for x in views.theirs])
    solve_whole(made, views, 1e-15)
    expected = np.linalg.lstsq(given.numpy(), wanted.numpy(), rcond=None)[0].T
    weight, bias = folded(made)
    assert np.allclose(weight.flatten(1).numpy(), expected[:, :36], atol=1e-6)
    assert np.allclose(bias.numpy(), expected[:, 36] if norm else 0, atol=1e-6)


def test_a_whole_layer_that_misses_nothing_stays() -> None:
    made = layer(norm=False)
    same = Layer("conv", "conv", "conv", (), made.theirs, None, made.theirs, torch.arange(4), torch.arange(5))
    before = made.theirs.weight.detach().clone()
    solve_whole(same, Seen(seen().theirs, seen().theirs), 1e-3)
    assert torch.allclose(made.theirs.weight, before, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 0, 1), (2, 1, 1), (2, 2, 2), ((1, 2), (0, 1), (2, 1))])
def test_what_a_convolution_reads_at_a_place_is_what_it_multiplies(stride: int, padding: int, dilation: int) -> None:
    """A layer with all of its teacher's inputs becomes that teacher's, whatever its steps, from any weights."""
    torch.manual_seed(0)
    theirs, last = (nn.Conv2d(3, 4, (3, 2), stride, padding, dilation).double() for _ in range(2))
    views = torch.randn(20, 3, 9, 10, dtype=torch.float64)
    solve_whole(
        Layer("c", "c", "c", (), last, None, theirs, torch.arange(4), torch.arange(3)), Seen([views], [views]), 1e-12
    )
    with torch.no_grad():
        assert torch.allclose(last(views), theirs(views), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(30, 5), (6, 7, 5)])
def test_a_linear_layer_is_solved_over_all_of_its_tokens(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    theirs, last = (nn.Linear(5, 4).double() for _ in range(2))
    views = torch.randn(*shape, dtype=torch.float64)
    solve_whole(
        Layer("l", "l", "l", (), last, None, theirs, torch.arange(4), torch.arange(5)), Seen([views], [views]), 1e-12
    )
    assert torch.allclose(last.weight, theirs.weight, atol=1e-6) and torch.allclose(last.bias, theirs.bias, atol=1e-6)


@pytest.mark.parametrize(
    ("conv", "possible"),
    [
        (nn.Conv2d(3, 4, 3, padding=1), True),
        (nn.Conv2d(3, 4, 3, padding="same"), False),
        (nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), False),
        (nn.Conv2d(1024, 4, 3), False),
        (nn.Linear(8, 4), True),
    ],
)
def test_what_cannot_be_laid_out_in_rows_is_left_alone(conv: nn.Conv2d | nn.Linear, possible: bool) -> None:
    made = Layer("c", "c", "c", (), conv, None, conv, torch.arange(4), torch.arange(3))
    assert is_solvable(made) == possible
