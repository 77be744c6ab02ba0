"""Augmented views of the images: drawn once from a seed, the same for teacher and student and after a resume.

A view depends only on its index, so any view can be computed again at any time, alone or in any batch.
"""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from graftcli.images import Preprocess, center_crop, normalise
from graftcli.images.rows import Pixels, with_extra
from graftcli.recipe.values import Augment, Colour, Mix, Paste

_NOISE_SIZE = 5  # grid points per side of the random noise that makes CutMix blobs
_MASK_SIZE = 32  # pixels per side of the map on which the blobs' area is set
_CHUNK_VALUES = 2**20  # pixel values computed at once: small chunks stay in the CPU caches


@dataclass(frozen=True)
class _Crops:
    """The crop, mirroring and colour of each view."""

    image: Tensor  # index of the image
    box: Tensor  # [views, 4]: centre x, centre y, width and height of the crop, in pixels of the stored image
    mirror: Tensor  # 1, or -1 for a mirrored view
    colour: Tensor  # [views, 3]: factors of brightness, contrast and saturation


@dataclass(frozen=True)
class _Mixup:
    """The view that each view is blended with, and the weight of the view itself."""

    partner: Tensor
    weight: Tensor  # 1: no blending


@dataclass(frozen=True)
class _CutMix:
    """The view, after mixup, from which a region is pasted into each view, and the region."""

    partner: Tensor
    share: Tensor  # of the area; 0: nothing is pasted
    region: Tensor  # box: [views, 2], its centre as shares of the sides; blobs: [views, 1, rows, columns] of noise


class Views:
    """`count` views of each image: `views[index]` are uint8 pixels, `views.normalised(index)` the networks' input."""

    def __init__(
        self,
        pixels: Pixels,
        preprocess: Preprocess,
        augment: Augment,
        count: int,
        seed: int,
        synthetic: Tensor | None = None,
        room: int = 0,
    ) -> None:
        """Up to half of the views are of the `synthetic` images, if given.

        If the pixels of all views fit in `room` bytes, each view is computed once and kept.
        """
        self.pixels, self.preprocess, self.augment = pixels, preprocess, augment
        generator = torch.Generator().manual_seed(seed)
        self._crops = _draw_crops(pixels, preprocess, augment, count, generator)
        if synthetic is not None:
            self.pixels = with_extra(pixels, synthetic)
            image = _with_synthetic(self._crops.image, len(pixels), len(synthetic), generator)
            self._crops = replace(self._crops, image=image)
        self._mixup = _draw_mixup(len(self), augment.mixup, generator)
        self._cutmix = _draw_cutmix(len(self), augment.cutmix, generator)
        size = len(self) * math.prod(self.shape)
        self.cached_bytes = size if size <= room else 0
        self._cached = torch.empty(len(self), *self.shape, dtype=torch.uint8) if self.cached_bytes else None
        self._is_cached = torch.zeros(len(self), dtype=torch.bool)
        self._mask = _in_blobs if augment.cutmix is not None and augment.cutmix.shape == "blobs" else _in_box

    def __len__(self) -> int:
        return len(self._crops.image)

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height and width of a view."""
        return (self.pixels.shape[1], *self.preprocess.size)

    def __getitem__(self, index: Tensor) -> Tensor:
        """uint8 [len(index), channels, height, width]."""
        if self._cached is None:
            return self._compute(index)
        new = index[~self._is_cached[index]]
        if len(new):
            self._cached[new], self._is_cached[new] = self._compute(new), True
        return self._cached[index]

    def _compute(self, index: Tensor) -> Tensor:
        chunk = max(1, _CHUNK_VALUES // math.prod(self.shape))
        return torch.cat([self._compute_chunk(part) for part in index.split(chunk)])

    def _compute_chunk(self, index: Tensor) -> Tensor:
        pixels = self._blended(index)
        is_pasted = self._cutmix.share[index] > 0
        if bool(is_pasted.any()):
            pasted = index[is_pasted]
            mask = self._mask(self._cutmix.region[pasted], self._cutmix.share[pasted], self.preprocess.size)
            partners = self._blended(self._cutmix.partner[pasted])
            pixels[is_pasted] = torch.where(mask, partners, pixels[is_pasted])
        return pixels.round_().clamp_(0, 255).to(torch.uint8)

    def normalised(self, index: Tensor) -> Tensor:
        """float32 [len(index), channels, height, width], normalised for the networks."""
        return normalise(self[index], self.preprocess)

    def _blended(self, index: Tensor) -> Tensor:
        pixels = self._cropped(index)
        is_blended = self._mixup.weight[index] < 1
        if bool(is_blended.any()):
            blended = index[is_blended]
            weight = self._mixup.weight[blended][:, None, None, None]
            partners = self._cropped(self._mixup.partner[blended])
            pixels[is_blended] = weight * pixels[is_blended] + (1 - weight) * partners
        return pixels

    def _cropped(self, index: Tensor) -> Tensor:
        crops = self._crops
        images = self.pixels[crops.image[index]].float()
        pixels = _crop(images, crops.box[index], crops.mirror[index], self.preprocess.size)
        return _jitter(pixels, crops.colour[index]) if self.augment.colour is not None else pixels


def plain(pixels: Tensor, preprocess: Preprocess) -> Tensor:
    """The images preprocessed for evaluation: centre crop, then normalisation."""
    return normalise(center_crop(pixels, preprocess), preprocess)


# -- random draws ------------------------------------------------------------------------------------------------------


def _draw_crops(
    pixels: Pixels, preprocess: Preprocess, augment: Augment, count: int, generator: torch.Generator
) -> _Crops:
    images = len(pixels)
    total = images * count
    box = _draw_boxes(total, tuple(pixels.shape[2:]), preprocess.size, augment, generator)
    mirror = 1 - 2 * (torch.rand(total, generator=generator) < (0.5 if augment.flip else 0.0)).float()
    return _Crops(torch.arange(images).repeat(count), box, mirror, _draw_colours(total, augment.colour, generator))


def _with_synthetic(image: Tensor, images: int, synthetic: int, generator: torch.Generator) -> Tensor:
    """Replace some of the image indices by synthetic images, which are numbered after the real ones.

    Their share of the views is their share of all images, at most half.
    """
    share = min(0.5, synthetic / (images + synthetic))
    chosen = torch.rand(len(image), generator=generator) < share
    return torch.where(chosen, images + torch.randint(synthetic, image.shape, generator=generator), image)


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


def _draw_mixup(total: int, mixup: Mix | None, generator: torch.Generator) -> _Mixup:
    partner = torch.randperm(total, generator=generator)
    if mixup is None:
        return _Mixup(partner, torch.ones(total))
    chosen = torch.rand(total, generator=generator) < mixup.share
    return _Mixup(partner, torch.where(chosen, _beta(total, mixup.alpha, generator), torch.ones(total)))


def _draw_cutmix(total: int, cutmix: Paste | None, generator: torch.Generator) -> _CutMix:
    partner = torch.randperm(total, generator=generator)
    if cutmix is None:
        return _CutMix(partner, torch.zeros(total), torch.zeros(total, 2))
    chosen = torch.rand(total, generator=generator) < cutmix.share
    share = torch.where(chosen, 1 - _beta(total, cutmix.alpha, generator), torch.zeros(total))
    if cutmix.shape == "blobs":
        return _CutMix(partner, share, torch.randn(total, 1, _NOISE_SIZE, _NOISE_SIZE, generator=generator).half())
    return _CutMix(partner, share, torch.rand(total, 2, generator=generator))


def _beta(total: int, alpha: float, generator: torch.Generator) -> Tensor:
    """Samples of Beta(alpha, alpha), from two gamma samples, because torch.distributions takes no generator."""
    if alpha == 1:
        return torch.rand(total, generator=generator)
    x, y = torch._standard_gamma(torch.full((2, total), alpha, dtype=torch.float64), generator=generator)
    samples: Tensor = (x / (x + y)).float()
    return samples


# -- pixels ------------------------------------------------------------------------------------------------------


def _crop(pixels: Tensor, box: Tensor, mirror: Tensor, size: tuple[int, int]) -> Tensor:
    """Crop each image to its box and resize; black outside the image. Boxes of whole pixels are copied exactly."""
    height, width = pixels.shape[2:]
    columns = _coordinates(box[:, 0] / width, box[:, 2] / width * mirror, size[1])[:, None, :]
    rows = _coordinates(box[:, 1] / height, box[:, 3] / height, size[0])[:, :, None]
    grid = torch.stack(torch.broadcast_tensors(columns, rows), -1)
    # black beyond the image, but not blended into the outermost pixels of a crop that ends at the image border
    inside = ((columns.abs() <= 1) & (rows.abs() <= 1))[:, None]
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False) * inside


def _coordinates(middle: Tensor, length: Tensor, count: int) -> Tensor:
    """The centres of `count` pixels along a crop, as [views, count] coordinates from -1 to 1 of the image."""
    pixels = (2 * torch.arange(count) + 1) / count - 1
    return (2 * middle - 1)[:, None] + length[:, None] * pixels


def _jitter(pixels: Tensor, factors: Tensor) -> Tensor:
    """Scale the brightness, contrast and saturation of each image."""
    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(1)
    pixels = pixels * brightness
    pixels = (pixels - pixels.mean((1, 2, 3), keepdim=True)) * contrast + pixels.mean((1, 2, 3), keepdim=True)
    grey = pixels.mean(1, keepdim=True)
    return ((pixels - grey) * saturation + grey).clamp_(0, 255)


def _in_box(middle: Tensor, share: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks of boxes with this share of the area, clipped at the borders of the view."""
    half = share.sqrt()[:, None] / 2
    (left, top), (right, bottom) = ((middle + side).clamp(0, 1)[:, :, None].unbind(1) for side in (-half, half))
    rows, columns = (torch.arange(n) + 0.5 for n in size)
    in_rows = (rows > top * size[0]) & (rows < bottom * size[0])
    in_columns = (columns > left * size[1]) & (columns < right * size[1])
    return (in_rows[:, :, None] & in_columns[:, None, :])[:, None]


def _in_blobs(noise: Tensor, share: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks of smooth blobs with this share of the area: upsampled noise above a threshold."""
    coarse = F.interpolate(noise.float(), size=(_MASK_SIZE, _MASK_SIZE), mode="bicubic", align_corners=True)
    rank = (share * _MASK_SIZE**2).long().clamp(max=_MASK_SIZE**2 - 1)
    threshold = coarse.flatten(1).sort(1, descending=True).values.gather(1, rank[:, None])
    return F.interpolate(coarse, size=size, mode="bilinear") > threshold[:, :, None, None]
