"""Synthetic training images, optimised to match the teacher's BatchNorm statistics (DeepInversion).

A few images cover little of the teacher's input distribution. A synthetic image starts as a view of a training image.
Gradient descent optimises it towards a randomly drawn class, and towards the running means and variances of the
teacher's BatchNorms (Yin et al., "Dreaming to Distill", CVPR 2020). No labels are used.
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction, FunctionCtx
from torch.nn.modules.batchnorm import _BatchNorm as AnyBatchNorm

from graftcli.distributed.world import SINGLE, World
from graftcli.graft.backend.batchnorm import batchnorms
from graftcli.graft.backend.memory_format import set_channels_last
from graftcli.graft.backend.precision import Precision
from graftcli.graft.data.views import Views
from graftcli.images import Preprocess, normalise
from graftcli.images.rows import Pixels
from graftcli.models.cuts.plan import Side
from graftcli.models.tracing.split import join, split
from graftcli.recipe.values import Augment
from graftcli.store.cache_files import Cache

MAX_BATCH = 96  # images per batch, over which statistics are taken: more are better and need more memory
_PIXELS = 16 * 224 * 224  # per batch at most: large images need fewer for as many values per channel
_LR = 6.0  # initial learning rate, in the 255 levels of a pixel
CLASS_WEIGHT = 0.3  # weight of the cross-entropy relative to the statistics loss
_MAX_CHANNEL_LOSS = 100.0  # keeps channels with almost no variance from dominating
SHIFT_DIVISOR = 16  # images are shifted by up to 1/16 of each side per step


class Synthesis:
    """Makes synthetic images from the teacher; deterministic for the same views and seed."""

    def __init__(self, teacher: Side, preprocess: Preprocess, precision: Precision, steps: int) -> None:
        # joined from its blocks, as in training, so that it runs the same traced code
        joined = copy.deepcopy(join(split(teacher.traced, teacher.cuts)))
        self.teacher = joined.eval().requires_grad_(False).to(precision.device)
        self.preprocess, self.precision, self.steps = preprocess, precision, steps
        example = torch.zeros(2, preprocess.channels, *preprocess.size, device=precision.device)
        set_channels_last(self.teacher, example)
        self.norms = [norm for norm in batchnorms(self.teacher) if norm.running_mean is not None]
        with torch.no_grad(), _statistics_losses(self.norms) as losses:
            self.teacher(example)
        self.is_possible = bool(losses)  # without norms that the forward pass never calls

    def make(
        self,
        pixels: Pixels,
        augment: Augment,
        count: int,
        seed: int,
        cache: Cache,
        progress: Callable[[int, int], None],
        world: World = SINGLE,
    ) -> Tensor:
        """Make `count` images from views of `pixels`; batches that an earlier session made are read from the cache.

        The processes of `world` share the batches.
        """
        # the size of the stored training images, because they are augmented in the same way
        stored = replace(self.preprocess, size=self.preprocess.stored_size, crop_pct=1.0)
        views = Views(pixels, stored, augment, -(-count // len(pixels)), seed, device=self.precision.device)
        batch = max(1, min(MAX_BATCH, _PIXELS // math.prod(self.preprocess.size)))
        batches: dict[int, Tensor] = {}
        progress(0, count)
        for number, index in enumerate(torch.arange(count).tensor_split(-(-count // batch))):
            generator = torch.Generator().manual_seed(((seed << 20) + number) % 2**63)
            make = partial(self._optimise, views, index, augment.flip, generator)
            if number % world.size == world.rank:
                batches[number] = cache.pixels(f"synthetic-{number}", (len(index), *views.shape), make)
                progress(int(index[-1]) + 1, count)
        every = {number: batch for part in world.gather(batches) for number, batch in part.items()}
        return torch.cat([every[number] for number in sorted(every)])

    def _optimise(self, views: Views, index: Tensor, flip: bool, generator: torch.Generator) -> Tensor:
        start = views[index]
        pixels = start.float().requires_grad_(True)
        optimiser = torch.optim.Adam([pixels], _LR, betas=(0.5, 0.9))
        class_draws = torch.rand(len(start), generator=generator).to(self.precision.device)
        for step in range(self.steps):
            optimiser.param_groups[0]["lr"] = _LR * (1 + math.cos(math.pi * step / self.steps)) / 2
            shifted = _shift(pixels, self.preprocess.size, generator)
            optimiser.zero_grad()
            self._loss(shifted.flip(3) if flip and step % 2 else shifted, class_draws).backward()
            optimiser.step()
            pixels.data.clamp_(0, 255)
        if not bool(torch.isfinite(pixels).all()):  # the teacher's gradient is not finite here
            return start.cpu()
        return pixels.detach().round().to(torch.uint8).cpu()

    def _loss(self, pixels: Tensor, class_draws: Tensor) -> Tensor:
        """The mean statistics loss, plus the cross-entropy to the drawn classes if the teacher has several classes.

        `class_draws` are numbers in [0, 1), one per image, that select its class.
        """
        with _statistics_losses(self.norms) as losses, self.precision.autocast():
            logits = self.teacher(normalise(pixels, self.preprocess))
        loss = torch.stack(losses).mean()
        if logits.shape[1] < 2:
            return loss
        return loss + CLASS_WEIGHT * F.cross_entropy(logits.float(), (class_draws * logits.shape[1]).long())


@contextmanager
def _statistics_losses(norms: list[AnyBatchNorm]) -> Iterator[list[Tensor]]:
    """Yield a list that forward passes in the context append to: the statistics loss of each norm."""
    losses: list[Tensor] = []

    def hook(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        losses.append(_statistics_loss(cast(AnyBatchNorm, norm), inputs[0]))

    handles = [norm.register_forward_pre_hook(hook) for norm in norms]
    try:
        yield losses
    finally:
        for handle in handles:
            handle.remove()


def _statistics_loss(norm: AnyBatchNorm, inputs: Tensor) -> Tensor:
    """The squared differences of batch and running mean and variance, relative to the running variance."""
    assert norm.running_mean is not None and norm.running_var is not None  # a norm without them has no hook
    mean, variance = _Moments.apply(inputs)
    running_var = norm.running_var + norm.eps
    mean_loss = (mean - norm.running_mean).square() / running_var
    variance_loss = (variance / running_var - 1).square()
    loss: Tensor = (mean_loss + variance_loss).clamp(max=_MAX_CHANNEL_LOSS).mean()
    return loss


class _Moments(torch.autograd.Function):
    """Mean and variance of each channel, with a fused backward pass.

    The gradient is linear in the input. With PyTorch's built-in operations an image takes 1.5 times as long.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of each channel."""
        dims, values = [0, *range(2, inputs.ndim)], inputs.float()
        mean = values.mean(dims, keepdim=True)
        ctx.save_for_backward(inputs, mean)
        return mean.flatten(), (values - mean).square().mean(dims)

    @staticmethod
    def backward(ctx: BackwardCFunction, *gradients: Tensor) -> Tensor:
        """The gradient of the input, from those of mean and variance."""
        saved: tuple[Tensor, ...] = ctx.saved_tensors
        inputs, mean = saved
        to_mean, to_variance = (gradient.view_as(mean) * mean.numel() / inputs.numel() for gradient in gradients)
        offset, slope = to_mean - 2 * to_variance * mean, 2 * to_variance
        return torch.addcmul(offset.to(inputs.dtype), slope.to(inputs.dtype), inputs)


def _shift(pixels: Tensor, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Shift the images at random and crop them to the network's size, so that they do not overfit one pixel grid."""
    margins = [stored - side for stored, side in zip(pixels.shape[2:], size, strict=True)]
    limits = [max(side // SHIFT_DIVISOR, margin // 2) for side, margin in zip(size, margins, strict=True)]
    shift = [int(torch.randint(-limit, limit + 1, (), generator=generator)) for limit in limits]
    top, left = (margin // 2 for margin in margins)
    return pixels.roll(shift, (2, 3))[:, :, top : top + size[0], left : left + size[1]]
