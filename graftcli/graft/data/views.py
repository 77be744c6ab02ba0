"""Augmented views of the images, identical for teacher and student and after a resume.

A view depends only on its index, so it can be computed again at any time and in any batch. Its augmentation parameters
are drawn on the CPU; its pixels are computed on the device.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from graftcli.graft.backend.transfer import to_device
from graftcli.graft.data.view_parameters import AddedImages, draw_view_parameters
from graftcli.images import Preprocess, center_crop, normalise
from graftcli.images.rows import Pixels, with_extra
from graftcli.recipe.values import Augment

_MASK_SIZE = 32  # pixels per side of the map on which the blobs' area is set
_CHUNK_VALUES = 2**20  # pixel values computed at once on a CPU; small chunks fit in its caches
_CHUNK_VALUES_ELSEWHERE = 2**25


@dataclass(frozen=True)
class ViewedImages:
    """Images that a share of the views show instead of the images of the run."""

    pixels: Pixels
    share: float


def synthetic_views(synthetic: Pixels, images: int) -> ViewedImages:
    """Synthetic images beside `images` real ones; their share of the views is that of all images, at most half."""
    return ViewedImages(synthetic, min(0.5, len(synthetic) / (images + len(synthetic))))


class Views:
    """`count` views of each image: `views[index]` are uint8 pixels, `views.normalised(index)` the networks' input."""

    def __init__(
        self,
        pixels: Pixels,
        preprocess: Preprocess,
        augment: Augment,
        count: int,
        seed: int,
        added: Sequence[ViewedImages] = (),
        room: int = 0,
        device: torch.device = torch.device("cpu"),  # noqa: B008  # immutable
    ) -> None:
        """A share of the views are of the `added` images.

        The pixels of the images are on the CPU or on the `device`. On a CPU, if the pixels of all views fit in `room`
        bytes, each view is computed once and kept.
        """
        self.pixels = reduce(with_extra, (group.pixels for group in added), pixels)
        self.preprocess, self.augment, self.device = preprocess, augment, device
        stored = (pixels.shape[2], pixels.shape[3])
        groups = [AddedImages(len(group.pixels), group.share) for group in added]
        self._draws = draw_view_parameters(len(pixels), stored, preprocess.size, augment, count, seed, groups)
        size = len(self) * math.prod(self.shape)
        self.cached_bytes = size if size <= room and device.type == "cpu" else 0
        self._cached = torch.empty(len(self), *self.shape, dtype=torch.uint8) if self.cached_bytes else None
        self._is_cached = torch.zeros(len(self), dtype=torch.bool)
        self._mask = _in_blobs if augment.cutmix is not None and augment.cutmix.shape == "blobs" else _in_box

    def __len__(self) -> int:
        return len(self._draws)

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height and width of a view."""
        return (self.pixels.shape[1], *self.preprocess.size)

    def __getitem__(self, index: Tensor) -> Tensor:
        """uint8 [len(index), channels, height, width] on the device; `index` is on the CPU."""
        if self._cached is None:
            return self._compute(index)
        new = index[~self._is_cached[index]]
        if len(new):
            self._cached[new], self._is_cached[new] = self._compute(new), True
        return self._cached[index]

    def normalised(self, index: Tensor) -> Tensor:
        """float32 [len(index), channels, height, width], normalised for the networks."""
        return normalise(self[index], self.preprocess)

    def _compute(self, index: Tensor) -> Tensor:
        values = _CHUNK_VALUES if self.device.type == "cpu" else _CHUNK_VALUES_ELSEWHERE
        return torch.cat([self._compute_chunk(part) for part in index.split(max(1, values // math.prod(self.shape)))])

    def _compute_chunk(self, index: Tensor) -> Tensor:
        cutmix = self._draws.cutmix
        pixels = self._blended(index)
        chosen, rows = self._chosen(index, cutmix.share[index] > 0)
        if len(chosen):
            mask = self._mask(self._sent(cutmix.region[chosen]), self._sent(cutmix.share[chosen]), self.preprocess.size)
            pixels[rows] = torch.where(mask, self._blended(cutmix.partner[chosen]), pixels[rows])
        return pixels.round_().clamp_(0, 255).to(torch.uint8)

    def _blended(self, index: Tensor) -> Tensor:
        mixup = self._draws.mixup
        pixels = self._cropped(index)
        chosen, rows = self._chosen(index, mixup.weight[index] < 1)
        if len(chosen):
            weight = self._sent(mixup.weight[chosen])[:, None, None, None]
            pixels[rows] = weight * pixels[rows] + (1 - weight) * self._cropped(mixup.partner[chosen])
        return pixels

    def _cropped(self, index: Tensor) -> Tensor:
        crops = self._draws.crops
        box, mirror = self._sent(crops.box[index]), self._sent(crops.mirror[index])
        pixels = _crop(self._stored(crops.image[index]).float(), box, mirror, self.preprocess.size)
        return _jitter(pixels, self._sent(crops.colour[index])) if self.augment.colour is not None else pixels

    def _stored(self, image: Tensor) -> Tensor:
        """Return the pixels of the images with these numbers, on the device."""
        if self.pixels.device.type == "cpu":
            return self._sent(self.pixels[image])
        return self.pixels[self._sent(image)]

    def _chosen(self, index: Tensor, is_chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Return the selected entries of `index`, and their rows, on the device. They are selected on the CPU."""
        rows = is_chosen.nonzero().flatten()
        return index[rows], self._sent(rows)

    def _sent(self, tensor: Tensor) -> Tensor:
        return to_device(tensor, self.device)


def plain(pixels: Tensor, preprocess: Preprocess) -> Tensor:
    """The images preprocessed for evaluation: centre crop, then normalisation."""
    return normalise(center_crop(pixels, preprocess), preprocess)


# -- pixels ------------------------------------------------------------------------------------------------------


def _crop(pixels: Tensor, box: Tensor, mirror: Tensor, size: tuple[int, int]) -> Tensor:
    """Crop each image to its box and resize; black outside the image. Boxes of whole pixels are copied exactly."""
    height, width = pixels.shape[2:]
    columns = _coordinates(box[:, 0] / width, box[:, 2] / width * mirror, size[1])[:, None, :]
    rows = _coordinates(box[:, 1] / height, box[:, 3] / height, size[0])[:, :, None]
    grid = torch.stack(torch.broadcast_tensors(columns, rows), -1)
    # black outside the image, without darkening the outermost pixels of a crop that ends at the image border
    inside = ((columns.abs() <= 1) & (rows.abs() <= 1))[:, None]
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False) * inside


def _coordinates(middle: Tensor, length: Tensor, count: int) -> Tensor:
    """The centres of `count` pixels along a crop, as [views, count] coordinates from -1 to 1 of the image."""
    pixels = (2 * torch.arange(count, device=middle.device) + 1) / count - 1
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
    rows, columns = (torch.arange(n, device=middle.device) + 0.5 for n in size)
    in_rows = (rows > top * size[0]) & (rows < bottom * size[0])
    in_columns = (columns > left * size[1]) & (columns < right * size[1])
    return (in_rows[:, :, None] & in_columns[:, None, :])[:, None]


def _in_blobs(noise: Tensor, share: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks of smooth blobs with this share of the area: upsampled noise above a threshold."""
    coarse = F.interpolate(noise.float(), size=(_MASK_SIZE, _MASK_SIZE), mode="bicubic", align_corners=True)
    rank = (share * _MASK_SIZE**2).long().clamp(max=_MASK_SIZE**2 - 1)
    threshold = coarse.flatten(1).sort(1, descending=True).values.gather(1, rank[:, None])
    return F.interpolate(coarse, size=size, mode="bilinear") > threshold[:, :, None, None]
