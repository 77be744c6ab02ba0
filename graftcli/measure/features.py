"""The logits of images, and the input features of the network's head, in one pass."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graftcli.images.pixels import Preprocess, center_crop, normalise

_DIMENSIONS = 64  # more dimensions are reduced by a random projection, which preserves distances


class FeatureReader:
    """Computes logits and features; the head is the last linear or convolutional layer that runs."""

    def __init__(self, module: nn.Module, preprocess: Preprocess, device: torch.device) -> None:
        self.module, self.preprocess, self.device = module.eval().to(device), preprocess, device
        self._head = self._find_head()
        self._projection: Tensor | None = None

    @torch.no_grad()
    def read(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [images, classes], and features [images, at most 64] of length 1, in float32 on the CPU."""
        inputs: list[Tensor] = []
        with _hooked(self._head, inputs):
            logits = self._run(pixels)
        features = inputs[-1].float().cpu()
        if features.ndim == 4:
            features = features.mean((2, 3))
        elif features.ndim == 3:
            features = features.mean(1)
        return logits.float().cpu(), F.normalize(self._projected(features.flatten(1)), dim=1)

    def _run(self, pixels: Tensor) -> Tensor:
        images = normalise(center_crop(pixels, self.preprocess), self.preprocess).to(self.device)
        logits: Tensor = self.module(images)
        return logits

    @torch.no_grad()
    def _find_head(self) -> nn.Module:
        order: list[nn.Module] = []
        layers = [layer for layer in self.module.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
        handles = [layer.register_forward_hook(lambda layer, *_: order.append(layer)) for layer in layers]
        try:
            self._run(torch.zeros(2, self.preprocess.channels, *self.preprocess.stored_size, dtype=torch.uint8))
        finally:
            for handle in handles:
                handle.remove()
        return order[-1]

    def _projected(self, features: Tensor) -> Tensor:
        if features.shape[1] <= _DIMENSIONS:
            return features
        if self._projection is None:
            generator = torch.Generator().manual_seed(0)
            self._projection = torch.randn(features.shape[1], _DIMENSIONS, generator=generator)
        return features @ self._projection


@contextmanager
def _hooked(layer: nn.Module, inputs: list[Tensor]) -> Iterator[None]:
    """Collect the inputs of a layer."""
    handle = layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    try:
        yield
    finally:
        handle.remove()
