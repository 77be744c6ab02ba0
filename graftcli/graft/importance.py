"""How much each of a network's channels matters to the layers that read it, on images."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from graftcli.nets.channels import Channels

_BATCH = 16


@torch.no_grad()
def importance(names: Channels, module: nn.Module, images: Tensor) -> dict[int, float]:
    """Of each channel the share that it has in what its readers make of it, added up over them.

    A reader's share of a channel is its mean square times the square of the weights that read it.
    """
    found: dict[int, float] = {}
    for path, squares in _mean_squares(names, module, images).items():
        weight = module.get_submodule(path).weight
        assert isinstance(weight, Tensor)
        groups = names.groups.get(path, 1)
        sizes = weight.double().square().flatten(2).sum(2) if weight.ndim > 2 else weight.double().square()
        shares = squares * sizes.unflatten(0, (groups, -1)).sum(1).flatten().cpu()
        shares = shares / shares.sum().clamp(min=torch.finfo(torch.float64).tiny)
        for name, share in zip(names.reads[path], shares.tolist(), strict=True):
            found[name] = found.get(name, 0.0) + share
    return found


def _mean_squares(names: Channels, module: nn.Module, images: Tensor) -> Mapping[str, Tensor]:
    """The mean square of each channel that the layers read."""
    seen: dict[str, Tensor] = {}

    def look(path: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
            value = given[0].movedim(1 if isinstance(layer, nn.Conv2d) else -1, 0)
            seen[path] = seen.get(path, 0) + value.double().flatten(1).square().mean(1).cpu()

        return hook

    handles = [module.get_submodule(path).register_forward_pre_hook(look(path)) for path in names.reads]
    try:
        for some in images.split(_BATCH):
            module(some.to(next(module.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    return seen
