"""The layout of maps in memory that convolutions are fastest in: channels last."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from graftcli.graft.training.tasks import Pieces

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


def lay_out(pieces: Pieces, images: Tensor) -> None:
    """Give every convolution's weights the layout in which maps are to lie, which the maps then take over from them."""
    _lay_out((*pieces.teacher, *pieces.student), lambda: _pass(pieces, images))


def lay_out_whole(network: nn.Module, images: Tensor) -> None:
    """The same for a network that is in one piece."""
    _lay_out((network,), lambda: network(images))


@torch.no_grad()
def _lay_out(modules: Iterable[nn.Module], show: Callable[[], object]) -> None:
    """A network that reads its maps by `view` takes no other layout than the plain one: then all stays as it was."""
    layers = [layer for module in modules for layer in module.modules()]
    convolutions = [layer for layer in layers if isinstance(layer, _CONVOLUTIONS)]
    _set(convolutions, torch.channels_last)
    try:
        show()
    except RuntimeError:
        _set(convolutions, torch.contiguous_format)


def _set(convolutions: list[nn.Conv2d | nn.ConvTranspose2d], layout: torch.memory_format) -> None:
    for convolution in convolutions:
        convolution.weight.data = convolution.weight.data.contiguous(memory_format=layout)


def _pass(pieces: Pieces, images: Tensor) -> None:
    """The images through the teacher, and at each cut through the student's block."""
    for ours, theirs in zip(pieces.teacher[:-1], pieces.student[:-1], strict=True):
        given, images = theirs(images), ours(images)
    pieces.student[-1](given)
    pieces.teacher[-1](images)
