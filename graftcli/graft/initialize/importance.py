"""How much each of a network's channels matters to the layers that read it, on images."""

import torch
from torch import Tensor, nn

from graftcli.models.channels.groups import ChannelGroups
from graftcli.students.channel_groups import mean_squares


@torch.no_grad()
def importance(names: ChannelGroups, module: nn.Module, images: Tensor) -> dict[int, float]:
    """Of each channel its share in what its readers make of what they read, added up over them.

    A channel's share in a reader is its mean square times the squares of the weights that read it. Measured against
    the size of the filters, and of the activations alone, this leaves most of the teacher's predictions as they were.
    """
    found: dict[int, float] = {}
    at = next(module.parameters()).device
    for path, squares in mean_squares(module, images.to(at)):
        if path not in names.reads:
            continue
        shares = squares.cpu() * _sizes(module.get_submodule(path), names.groups.get(path, 1))
        shares = shares / shares.sum().clamp(min=torch.finfo(torch.float64).tiny)
        for name, share in zip(names.reads[path], shares.tolist(), strict=True):
            found[name] = found.get(name, 0.0) + share
    return found


def _sizes(layer: nn.Module, groups: int) -> Tensor:
    """Of each channel that a layer reads the sum of the squares of its weights."""
    assert isinstance(layer, nn.Conv2d | nn.Linear)  # no others read with weights
    squares = layer.weight.double().square().reshape(*layer.weight.shape[:2], -1).sum(2).cpu()
    sizes: Tensor = squares.unflatten(0, (groups, -1)).sum(1).flatten()
    return sizes
