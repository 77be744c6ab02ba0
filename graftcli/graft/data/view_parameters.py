"""Draw the augmentation parameters of each view on the CPU from a seed, so that they are equal on every device."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from graftcli.recipe.values import Augment, Colour, Mix, Paste

_NOISE_SIZE = 5  # grid points per side of the random noise that makes CutMix blobs


@dataclass(frozen=True)
class Crops:
    """The crop, mirroring and colour of each view."""

    image: Tensor  # index of the image
    box: Tensor  # [views, 4]: centre x, centre y, width and height of the crop, in pixels of the stored image
    mirror: Tensor  # 1, or -1 for a mirrored view
    colour: Tensor  # [views, 3]: factors of brightness, contrast and saturation


@dataclass(frozen=True)
class AddedImages:
    """Images, numbered after those before them, that a share of all views show instead."""

    count: int
    share: float


@dataclass(frozen=True)
class Mixup:
    """The view that each view is blended with, and the weight of the view itself."""

    partner: Tensor
    weight: Tensor  # 1: no blending


@dataclass(frozen=True)
class CutMix:
    """The view, after mixup, from which a region is pasted into each view, and the region."""

    partner: Tensor
    share: Tensor  # of the area; 0: nothing is pasted
    region: Tensor  # box: [views, 2], its centre as shares of the sides; blobs: [views, 1, rows, columns] of noise


@dataclass(frozen=True)
class ViewParameters:
    """The augmentation parameters of all views."""

    crops: Crops
    mixup: Mixup
    cutmix: CutMix

    def __len__(self) -> int:
        return len(self.crops.image)


def draw_view_parameters(
    images: int,
    stored: tuple[int, ...],
    size: tuple[int, int],
    augment: Augment,
    count: int,
    seed: int,
    added: Sequence[AddedImages] = (),
) -> ViewParameters:
    """Draw `count` views of `size` of each image; a share of them show one of the `added` images instead.

    `stored` are height and width of the images.
    """
    generator = torch.Generator().manual_seed(seed)
    crops = _draw_crops(images, stored, size, augment, count, generator)
    first = images
    for group in added:
        crops = replace(crops, image=_with_added(crops.image, first, group, generator))
        first += group.count
    total = len(crops.image)
    return ViewParameters(
        crops, _draw_mixup(total, augment.mixup, generator), _draw_cutmix(total, augment.cutmix, generator)
    )


def _draw_crops(
    images: int,
    stored: tuple[int, ...],
    size: tuple[int, int],
    augment: Augment,
    count: int,
    generator: torch.Generator,
) -> Crops:
    total = images * count
    box = _draw_boxes(total, stored, size, augment, generator)
    mirror = 1 - 2 * (torch.rand(total, generator=generator) < (0.5 if augment.flip else 0.0)).float()
    return Crops(torch.arange(images).repeat(count), box, mirror, _draw_colours(total, augment.colour, generator))


def _with_added(image: Tensor, first: int, added: AddedImages, generator: torch.Generator) -> Tensor:
    """Replace a share of the image indices by added images, which are numbered from `first`."""
    chosen = torch.rand(len(image), generator=generator) < added.share
    return torch.where(chosen, first + torch.randint(added.count, image.shape, generator=generator), image)


def _draw_boxes(
    total: int, stored: tuple[int, ...], size: tuple[int, int], augment: Augment, generator: torch.Generator
) -> Tensor:
    """Crops of the network's size shifted by whole pixels; a share of them are random resized crops instead."""
    extent = torch.tensor([stored[1], stored[0]], dtype=torch.float32)  # width, height
    window = torch.tensor([size[1], size[0]], dtype=torch.float32)
    start = ((extent - window) / 2).round().expand(total, 2)
    if augment.crop is not None:
        limit = torch.where(extent > window, (extent - window) / 2, augment.crop.padding * window).floor()
        start = start + (torch.rand(total, 2, generator=generator) * (2 * limit + 1)).floor() - limit
    box = torch.cat([start + window / 2, window.expand(total, 2)], 1)
    if augment.resized_crop is None:
        return box
    resized = augment.resized_crop
    area = torch.empty(total).uniform_(*resized.scale, generator=generator) * extent.prod()
    ratio = torch.empty(total).uniform_(*map(math.log, resized.ratio), generator=generator).exp()
    crop = torch.minimum(torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], 1), extent)
    centre_point = crop / 2 + torch.rand(total, 2, generator=generator) * (extent - crop)
    chosen = torch.rand(total, 1, generator=generator) < resized.share
    return torch.where(chosen, torch.cat([centre_point, crop], 1), box)


def _draw_colours(total: int, colour: Colour | None, generator: torch.Generator) -> Tensor:
    if colour is None:
        return torch.ones(total, 3)
    return 1 + colour.strength * (2 * torch.rand(total, 3, generator=generator) - 1)


def _draw_mixup(total: int, mixup: Mix | None, generator: torch.Generator) -> Mixup:
    partner = torch.randperm(total, generator=generator)
    if mixup is None:
        return Mixup(partner, torch.ones(total))
    chosen = torch.rand(total, generator=generator) < mixup.share
    return Mixup(partner, torch.where(chosen, _beta(total, mixup.alpha, generator), torch.ones(total)))


def _draw_cutmix(total: int, cutmix: Paste | None, generator: torch.Generator) -> CutMix:
    partner = torch.randperm(total, generator=generator)
    if cutmix is None:
        return CutMix(partner, torch.zeros(total), torch.zeros(total, 2))
    chosen = torch.rand(total, generator=generator) < cutmix.share
    share = torch.where(chosen, 1 - _beta(total, cutmix.alpha, generator), torch.zeros(total))
    if cutmix.shape == "blobs":
        return CutMix(partner, share, torch.randn(total, 1, _NOISE_SIZE, _NOISE_SIZE, generator=generator).half())
    return CutMix(partner, share, torch.rand(total, 2, generator=generator))


def _beta(total: int, alpha: float, generator: torch.Generator) -> Tensor:
    """Samples of Beta(alpha, alpha), from two gamma samples, because torch.distributions takes no generator."""
    if alpha == 1:
        return torch.rand(total, generator=generator)
    x, y = torch._standard_gamma(torch.full((2, total), alpha, dtype=torch.float64), generator=generator)
    samples: Tensor = (x / (x + y)).float()
    return samples
