"""More images than there are: views of them, changed until the teacher finds the statistics that it was trained on.

Where a few images are all there is, a student sees little of what the teacher knows. A synthetic image begins as a view
and follows the teacher's gradient to a class drawn at random, and to the means and variances that its BatchNorms
remember of their training images (Yin et al., "Dreaming to Distill", CVPR 2020). No label has a part in it.
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as AnyBatchNorm

from graftcli.graft.backend.batchnorm import batchnorms
from graftcli.graft.backend.memory_format import lay_out_whole
from graftcli.graft.backend.precision import Precision
from graftcli.graft.data.views import Views
from graftcli.images import Preprocess, normalise
from graftcli.models.cuts.plan import Side
from graftcli.models.tracing.split import join, split
from graftcli.recipe.values import Augment
from graftcli.store.cache_files import Cache

_MOST = 96  # images that share their statistics: the more the better, and the more memory
_PIXELS = 16 * 224 * 224  # of theirs at most: of larger images fewer make as many values of a map
_RATE = 6.0  # of 255 levels of a pixel, at first
_CLASS = 0.3  # weight of the class beside the statistics
_FAR = 100.0  # a channel that hardly varies would rule all others
_SHIFT = 16  # a side is moved by up to this part of it between two steps


class Synthesis:
    """Synthetic images out of the teacher; the same for the same views."""

    def __init__(self, teacher: Side, preprocess: Preprocess, precision: Precision, steps: int) -> None:
        # in its pieces, as everything else sees it: what its own `forward` does around its layers is no part of it
        whole = copy.deepcopy(join(split(teacher.traced, teacher.cuts)))
        self.teacher = whole.eval().requires_grad_(False).to(precision.device)
        self.preprocess, self.precision, self.steps = preprocess, precision, steps
        example = torch.zeros(2, preprocess.channels, *preprocess.size, device=precision.device)
        lay_out_whole(self.teacher, example)
        self.norms = [norm for norm in batchnorms(self.teacher) if norm.running_mean is not None]
        with torch.no_grad(), _differences(self.norms) as found:
            self.teacher(example)
        self.is_possible = bool(found)  # a network may have norms that it does not use

    def of(
        self, pixels: Tensor, augment: Augment, count: int, seed: int, cache: Cache, told: Callable[[int, int], None]
    ) -> Tensor:
        """So many out of views of the images. What an earlier session has made is taken from the cache."""
        # as large as what is kept of an image, for they are looked at as images are
        whole = replace(self.preprocess, size=self.preprocess.kept, crop_pct=1.0)
        views = Views(pixels, whole, augment, -(-count // len(pixels)), seed)
        most = max(1, min(_MOST, _PIXELS // math.prod(self.preprocess.size)))
        made = []
        told(0, count)
        for number, index in enumerate(torch.arange(count).tensor_split(-(-count // most))):
            generator = torch.Generator().manual_seed(((seed << 20) + number) % 2**63)
            make = partial(self._made, views, index, augment.flip, generator)
            made.append(cache.pixels(f"synthetic-{number}", (len(index), *views.shape), make))
            told(int(index[-1]) + 1, count)
        return torch.cat(made)

    def _made(self, views: Views, index: Tensor, flip: bool, generator: torch.Generator) -> Tensor:
        start = views[index]
        pixels = start.float().to(self.precision.device).requires_grad_(True)
        optimiser = torch.optim.Adam([pixels], _RATE, betas=(0.5, 0.9))
        drawn = torch.rand(len(start), generator=generator).to(self.precision.device)
        for step in range(self.steps):
            optimiser.param_groups[0]["lr"] = _RATE * (1 + math.cos(math.pi * step / self.steps)) / 2
            shown = _moved(pixels, self.preprocess.size, generator)
            optimiser.zero_grad()
            self._error(shown.flip(3) if flip and step % 2 else shown, drawn).backward()
            optimiser.step()
            pixels.data.clamp_(0, 255)
        if not bool(torch.isfinite(pixels).all()):  # the teacher has no gradient to follow here
            return start
        return pixels.detach().round().to(torch.uint8).cpu()

    def _error(self, pixels: Tensor, drawn: Tensor) -> Tensor:
        """How far the statistics are from those that are remembered, and the answers from the classes that are drawn,
        where the teacher knows classes."""
        with _differences(self.norms) as found, self.precision.autocast():
            scores = self.teacher(normalise(pixels, self.preprocess))
        error = torch.stack(found).mean()
        if scores.shape[1] < 2:
            return error
        return error + _CLASS * F.cross_entropy(scores.float(), (drawn * scores.shape[1]).long())


@contextmanager
def _differences(norms: list[AnyBatchNorm]) -> Iterator[list[Tensor]]:
    """Filled by what is computed within it: the difference at each norm, in the remembered variance."""
    found: list[Tensor] = []

    def hear(norm: nn.Module, given: tuple[Tensor, ...]) -> None:
        found.append(_difference(cast(AnyBatchNorm, norm), given[0]))

    hooks = [norm.register_forward_pre_hook(hear) for norm in norms]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _difference(norm: AnyBatchNorm, given: Tensor) -> Tensor:
    assert norm.running_mean is not None and norm.running_var is not None  # without them it is not listened to
    mean, spread = _Moments.apply(given)
    remembered = norm.running_var + norm.eps
    mean = (mean - norm.running_mean).square() / remembered
    spread = (spread / remembered - 1).square()
    error: Tensor = (mean + spread).clamp(max=_FAR).mean()
    return error


class _Moments(torch.autograd.Function):
    """Mean and variance of each channel.

    Their gradient is a straight line in what is given, and written down as one: with both put together out of PyTorch's
    own operations an image takes half as long again.
    """

    @staticmethod
    def forward(ctx: Any, given: Tensor) -> tuple[Tensor, Tensor]:
        over, whole = [0, *range(2, given.ndim)], given.float()
        mean = whole.mean(over, keepdim=True)
        ctx.save_for_backward(given, mean)
        return mean.flatten(), (whole - mean).square().mean(over)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        given, mean = ctx.saved_tensors
        of_mean, of_spread = (slope.view_as(mean) * mean.numel() / given.numel() for slope in slopes)
        offset, slope = of_mean - 2 * of_spread * mean, 2 * of_spread
        return torch.addcmul(offset.to(given.dtype), slope.to(given.dtype), given)


def _moved(pixels: Tensor, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Shifted by a little: what only fits one grid of pixels is no image. As large as the network sees it, out of all
    that is kept."""
    spare = [kept - side for kept, side in zip(pixels.shape[2:], size, strict=True)]
    reach = [max(side // _SHIFT, rest // 2) for side, rest in zip(size, spare, strict=True)]
    shift = [int(torch.randint(-most, most + 1, (), generator=generator)) for most in reach]
    top, left = (rest // 2 for rest in spare)
    return pixels.roll(shift, (2, 3))[:, :, top : top + size[0], left : left + size[1]]
