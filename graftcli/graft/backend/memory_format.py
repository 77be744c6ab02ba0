"""Channels-last memory format for convolutions, where the network supports it."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from graftcli.graft.training.pieces import Pieces

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


def set_channels_last_pieces(pieces: Pieces, images: Tensor) -> None:
    """Convert the convolution weights of both networks' pieces to channels-last; activations follow the weights."""
    _set_channels_last((*pieces.teacher, *pieces.student), lambda: _forward(pieces, images))


def set_channels_last(network: nn.Module, images: Tensor) -> None:
    """Convert the convolution weights of a network to channels-last; activations follow the weights."""
    _set_channels_last((network,), lambda: network(images))


@torch.no_grad()
def _set_channels_last(modules: Iterable[nn.Module], forward: Callable[[], object]) -> None:
    """Revert to the contiguous format if the forward pass fails, as with networks that call `view` on a feature map."""
    layers = [layer for module in modules for layer in module.modules()]
    convolutions = [layer for layer in layers if isinstance(layer, _CONVOLUTIONS)]
    _convert(convolutions, torch.channels_last)
    try:
        forward()
    except RuntimeError:
        _convert(convolutions, torch.contiguous_format)


def _convert(convolutions: list[nn.Conv2d | nn.ConvTranspose2d], memory_format: torch.memory_format) -> None:
    for convolution in convolutions:
        convolution.weight.data = convolution.weight.data.contiguous(memory_format=memory_format)


def _forward(pieces: Pieces, images: Tensor) -> None:
    """Run the images through the teacher, and the student's pieces on the teacher's features at each cut."""
    features = images
    for teacher, student in zip(pieces.teacher[:-1], pieces.student[:-1], strict=True):
        output, features = student(features), teacher(features)
    pieces.student[-1](output)
    pieces.teacher[-1](features)
