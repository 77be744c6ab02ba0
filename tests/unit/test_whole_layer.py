"""Solving a layer as a whole, compared with NumPy."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import nn

from graftcli.graft.initialize.adapters import rows
from graftcli.graft.layerwise.layer_pairs import LayerPair, folded
from graftcli.graft.layerwise.one_layer import LayerInputs
from graftcli.graft.layerwise.whole_layer import fits_in_rows, solve_whole
from graftcli.graft.surgery.fold import Plain
from graftcli.models.least_squares import solve, solve_dual
from tests.layer_pairs import layer, seen


@pytest.mark.parametrize("norm", [True, False])
def test_a_whole_layer_is_numpys_least_squares_of_what_it_sees(norm: bool) -> None:
    """Every weight of its kernels, and the bias of its norm; without one it has none."""
    made, views = layer(norm), seen()
    patches = [F.unfold(x, 3, padding=1).movedim(1, 2).flatten(0, 1) for x in views.student]
    given = torch.cat([torch.cat([x, torch.ones(len(x), norm, dtype=x.dtype)], 1) for x in patches])
    with torch.no_grad():
        wanted = torch.cat([rows(made.target(x), 1) for x in views.teacher])
    solve_whole(made, views, 1e-15)
    expected = np.linalg.lstsq(given.numpy(), wanted.numpy(), rcond=None)[0].T
    weight, bias = folded(made)
    assert np.allclose(weight.flatten(1).numpy(), expected[:, :36], atol=1e-6)
    assert np.allclose(bias.numpy(), expected[:, 36] if norm else 0, atol=1e-6)


def test_a_layer_without_error_stays() -> None:
    made = layer(norm=False)
    same = LayerPair("conv", "conv", "conv", (), made.teacher, None, made.teacher, torch.arange(4), torch.arange(5))
    before = made.teacher.weight.detach().clone()
    solve_whole(same, LayerInputs(seen().teacher, seen().teacher), 1e-3)
    assert torch.allclose(made.teacher.weight, before, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 0, 1), (2, 1, 1), (2, 2, 2), ((1, 2), (0, 1), (2, 1))])
def test_what_a_convolution_reads_at_a_place_is_what_it_multiplies(stride: int, padding: int, dilation: int) -> None:
    """A layer with all of its teacher's inputs becomes that teacher's, whatever its steps, from any weights."""
    torch.manual_seed(0)
    teacher_layer, last = (nn.Conv2d(3, 4, (3, 2), stride, padding, dilation).double() for _ in range(2))
    views = torch.randn(20, 3, 9, 10, dtype=torch.float64)
    solve_whole(
        LayerPair("c", "c", "c", (), last, None, teacher_layer, torch.arange(4), torch.arange(3)),
        LayerInputs([views], [views]),
        1e-12,
    )
    with torch.no_grad():
        assert torch.allclose(last(views), teacher_layer(views), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(30, 5), (6, 7, 5)])
def test_a_linear_layer_is_solved_over_all_of_its_tokens(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    teacher_layer, last = (nn.Linear(5, 4).double() for _ in range(2))
    views = torch.randn(*shape, dtype=torch.float64)
    solve_whole(
        LayerPair("l", "l", "l", (), last, None, teacher_layer, torch.arange(4), torch.arange(5)),
        LayerInputs([views], [views]),
        1e-12,
    )
    assert torch.allclose(last.weight, teacher_layer.weight, atol=1e-6) and torch.allclose(
        last.bias, teacher_layer.bias, atol=1e-6
    )


def test_with_fewer_places_than_numbers_the_solution_is_the_same() -> None:
    """Equations between the places, in place of those between the numbers."""
    generator = torch.Generator().manual_seed(3)
    given, wanted, start = (torch.randn(*shape, generator=generator) for shape in ((7, 12), (7, 5), (5, 12)))
    for ridge in (1e-1, 1e-3):
        few = solve_dual(given.double(), wanted.double(), start, ridge)
        assert torch.allclose(few, solve([(1.0, given.double(), wanted.double())], start, ridge).weight, atol=1e-9)


def test_a_layer_behind_pooling_is_not_overfitted_to_few_views() -> None:
    """As many views as numbers: without a stronger ridge it would be exact on these, and wrong on all others."""
    generator = torch.Generator().manual_seed(4)
    teacher_layer, last = nn.Linear(40, 6), nn.Linear(30, 6)
    kept = torch.arange(30)
    with torch.no_grad():
        last.weight.copy_(teacher_layer.weight[:, kept])
        last.bias.copy_(teacher_layer.bias)
    made = LayerPair("head", "head", "head", (), last, None, teacher_layer, torch.arange(6), kept)
    views, others = (torch.randn(count, 40, generator=generator) for count in (32, 500))

    def error() -> float:
        with torch.no_grad():
            return float((last(others[:, kept]) - teacher_layer(others)).square().mean())

    solve_whole(made, LayerInputs([views[:, kept]], [views]), 1e-9)
    bent = error()
    with torch.no_grad():
        last.weight.copy_(teacher_layer.weight[:, kept])
        last.bias.copy_(teacher_layer.bias)
    solve_whole(made, LayerInputs([views[:, kept]], [views]))
    assert error() < 0.2 * bent


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kernel", [3, 4])
@pytest.mark.filterwarnings("ignore:Using padding")  # PyTorch says that it copies
def test_padding_in_words_is_what_torch_makes_of_it(padding: str, kernel: int) -> None:
    teacher_layer, last = (nn.Conv2d(2, 3, kernel, padding=padding).double() for _ in range(2))
    views = torch.randn(20, 2, 8, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    made = LayerPair("conv", "conv", "conv", (), last, None, teacher_layer, torch.arange(3), torch.arange(2))
    solve_whole(made, LayerInputs([views], [views]), 1e-12)
    with torch.no_grad():
        assert torch.allclose(last(views), teacher_layer(views), rtol=0, atol=1e-6)


POINT = nn.Conv2d(3, 4, 1)


@pytest.mark.parametrize(
    ("last", "teacher_layer", "possible"),
    [
        (nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1), True),
        (POINT, nn.Conv2d(3, 4, 3, padding="same"), True),
        (POINT, nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), False),
        (POINT, Conv2dSame(3, 4, 3), False),
        (nn.Conv2d(1024, 4, 3), nn.Conv2d(1024, 4, 3), False),
        (nn.Linear(8, 4), nn.Linear(8, 4), True),
    ],
)
def test_what_cannot_be_laid_out_in_rows_is_left_alone(last: Plain, teacher_layer: Plain, possible: bool) -> None:
    made = LayerPair("conv", "conv", "conv", (), last, None, teacher_layer, torch.arange(4), torch.arange(3))
    assert fits_in_rows(made) == possible
