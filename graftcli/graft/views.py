"""Augmented looks at the images: drawn once from a seed, the same for teacher and student, the same after a resume.

What a view shows is a function of its number alone, so any view can be made again at any time, alone or with others.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from graftcli.images import Fit, centre, normalise
from graftcli.recipe.values import Augment, Colour


@dataclass(frozen=True)
class _Looks:
    """For each view the part of the image that it shows, and its colours."""

    image: Tensor  # which image
    box: Tensor  # [views, 4]: centre x, centre y, width, height of the part, in pixels of the kept image
    mirror: Tensor  # 1 or -1
    colour: Tensor  # [views, 3]: factors of brightness, contrast, saturation


@dataclass(frozen=True)
class _Mixes:
    """For each view the one that it is mixed with, how much of itself is left, and the patch that is pasted."""

    partner: Tensor
    weight: Tensor  # 1: not mixed
    patch: Tensor  # [views, 4]: left, top, right, bottom in shares; empty: none


class Views:
    """`count` looks at each image; `views[i]` are uint8 pixels, `views.normalised(i)` what the networks see."""

    def __init__(self, pixels: Tensor, fit: Fit, augment: Augment, count: int, seed: int) -> None:
        self.pixels, self.fit, self.augment = pixels, fit, augment
        generator = torch.Generator().manual_seed(seed)
        self._looks = _draw_looks(pixels, fit, augment, count, generator)
        self._mixes = _draw_mixes(len(self), augment, generator)

    def __len__(self) -> int:
        return len(self._looks.image)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.pixels.shape[1], *self.fit.size)

    def __getitem__(self, index: Tensor) -> Tensor:
        """uint8 [len(index), channels, height, width]."""
        mixes = self._mixes
        shown = self._look(index)
        if self.augment.mixup is not None or self.augment.cutmix is not None:
            mixed = (mixes.weight[index] < 1) | (mixes.patch[index, 2] > 0)
            if bool(mixed.any()):
                some = index[mixed]
                shown[mixed] = _mix(shown[mixed], self._look(mixes.partner[some]), mixes, some)
        return shown.round_().clamp_(0, 255).to(torch.uint8)

    def normalised(self, index: Tensor) -> Tensor:
        return normalise(self[index], self.fit)

    def _look(self, index: Tensor) -> Tensor:
        looks = self._looks
        pixels = self.pixels[looks.image[index]].float()
        shown = _crop(pixels, looks.box[index], looks.mirror[index], self.fit.size)
        return _recolour(shown, looks.colour[index]) if self.augment.colour is not None else shown


def plain(pixels: Tensor, fit: Fit) -> Tensor:
    """The images as they are evaluated, ready for the networks."""
    return normalise(centre(pixels, fit), fit)


# -- drawing ------------------------------------------------------------------------------------------------------


def _draw_looks(pixels: Tensor, fit: Fit, augment: Augment, count: int, generator: torch.Generator) -> _Looks:
    images = len(pixels)
    total = images * count
    box = _draw_boxes(total, tuple(pixels.shape[2:]), fit.size, augment, generator)
    mirror = 1 - 2 * (torch.rand(total, generator=generator) < (0.5 if augment.flip else 0.0)).float()
    return _Looks(torch.arange(images).repeat(count), box, mirror, _draw_colours(total, augment.colour, generator))


def _draw_boxes(
    total: int, kept: tuple[int, ...], size: tuple[int, int], augment: Augment, generator: torch.Generator
) -> Tensor:
    """Shifted crops of the network's size, in whole pixels; a share of them zoomed parts of the image instead."""
    extent = torch.tensor([kept[1], kept[0]], dtype=torch.float32)  # width, height
    window = torch.tensor([size[1], size[0]], dtype=torch.float32)
    start = ((extent - window) / 2).round().expand(total, 2)
    if augment.crop is not None:
        reach = torch.where(extent > window, (extent - window) / 2, augment.crop.padding * window).floor()
        start = start + (torch.rand(total, 2, generator=generator) * (2 * reach + 1)).floor() - reach
    box = torch.cat([start + window / 2, window.expand(total, 2)], 1)
    if augment.resized_crop is None:
        return box
    zoom = augment.resized_crop
    area = torch.empty(total).uniform_(*zoom.scale, generator=generator) * extent.prod()
    ratio = torch.empty(total).uniform_(*map(math.log, zoom.ratio), generator=generator).exp()
    part = torch.minimum(torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], 1), extent)
    middle = part / 2 + torch.rand(total, 2, generator=generator) * (extent - part)
    chosen = torch.rand(total, 1, generator=generator) < zoom.share
    return torch.where(chosen, torch.cat([middle, part], 1), box)


def _draw_colours(total: int, colour: Colour | None, generator: torch.Generator) -> Tensor:
    if colour is None:
        return torch.ones(total, 3)
    return 1 + colour.strength * (2 * torch.rand(total, 3, generator=generator) - 1)


def _draw_mixes(total: int, augment: Augment, generator: torch.Generator) -> _Mixes:
    partner = torch.randperm(total, generator=generator)
    weight, patch = torch.ones(total), torch.zeros(total, 4)
    chance = torch.rand(total, generator=generator)
    share = 0.0
    if augment.mixup is not None:
        share = augment.mixup.share
        drawn = _beta(total, augment.mixup.alpha, generator)
        weight = torch.where(chance < share, drawn, weight)
    if augment.cutmix is not None:
        side = (1 - _beta(total, augment.cutmix.alpha, generator)).sqrt()
        middle = torch.rand(total, 2, generator=generator)
        corners = torch.cat([middle - side[:, None] / 2, middle + side[:, None] / 2], 1).clamp(0, 1)
        chosen = (chance >= share) & (chance < share + augment.cutmix.share)
        patch = torch.where(chosen[:, None], corners, patch)
    return _Mixes(partner, weight, patch)


def _beta(total: int, alpha: float, generator: torch.Generator) -> Tensor:
    """Beta(alpha, alpha) out of uniform numbers alone (Jöhnk), so that a generator rules it."""
    if alpha == 1:
        return torch.rand(total, generator=generator)
    found = torch.full((total,), 0.5)
    open_ = torch.ones(total, dtype=torch.bool)
    for _ in range(64):
        x, y = (torch.rand(total, generator=generator).pow(1 / alpha) for _ in range(2))
        accepted = open_ & (x + y <= 1) & (x + y > 0)
        found = torch.where(accepted, x / (x + y), found)
        open_ &= ~accepted
    return found


# -- showing ------------------------------------------------------------------------------------------------------


def _crop(pixels: Tensor, box: Tensor, mirror: Tensor, size: tuple[int, int]) -> Tensor:
    """The boxed part of each image at the network's size; black outside. A box in whole pixels is copied exactly."""
    height, width = pixels.shape[2:]
    scale = torch.tensor([width, height], dtype=torch.float32)
    middle = 2 * box[:, :2] / scale - 1
    half = box[:, 2:] / scale
    theta = torch.zeros(len(pixels), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = half[:, 0] * mirror, half[:, 1]
    theta[:, :, 2] = middle
    grid = F.affine_grid(theta, [len(pixels), pixels.shape[1], *size], align_corners=False)
    # black beyond the image, but no black mixed into the outermost pixels of a part that ends with the image
    inside = ((grid[..., 0].abs() <= 1) & (grid[..., 1].abs() <= 1))[:, None]  # quicker than `all` over two
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False) * inside


def _recolour(pixels: Tensor, factors: Tensor) -> Tensor:
    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(1)
    pixels = pixels * brightness
    pixels = (pixels - pixels.mean((1, 2, 3), keepdim=True)) * contrast + pixels.mean((1, 2, 3), keepdim=True)
    grey = pixels.mean(1, keepdim=True)
    return ((pixels - grey) * saturation + grey).clamp_(0, 255)


def _mix(shown: Tensor, other: Tensor, mixes: _Mixes, index: Tensor) -> Tensor:
    weight = mixes.weight[index][:, None, None, None]
    height, width = shown.shape[2:]
    rows, columns = (torch.arange(n) + 0.5 for n in (height, width))
    left, top, right, bottom = (side[:, None] for side in mixes.patch[index].unbind(1))
    inside = ((rows > top * height) & (rows < bottom * height))[:, :, None]
    inside = inside & ((columns > left * width) & (columns < right * width))[:, None, :]
    return torch.where(inside[:, None], other, weight * shown + (1 - weight) * other)
