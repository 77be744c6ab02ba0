"""Augmented looks at the images: drawn once from a seed, the same for teacher and student, the same after a resume.

What a view shows is a function of its number alone, so any view can be made again at any time, alone or with others.
"""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from graftcli.images import Preprocess, centre, normalise
from graftcli.recipe.values import Augment, Colour, Mix, Paste

_HILLS = 5  # a side: of the landscapes whose tops are pasted
_COARSE = 32  # pixels a side
_AT_ONCE = 2**20  # values of the views that are drawn at once: what passes through a processor's caches is quicker


@dataclass(frozen=True)
class _Looks:
    """For each view the part of the image that it shows, and its colours."""

    image: Tensor  # which image
    box: Tensor  # [views, 4]: centre x, centre y, width, height of the part, in pixels of the kept image
    mirror: Tensor  # 1 or -1
    colour: Tensor  # [views, 3]: factors of brightness, contrast, saturation


@dataclass(frozen=True)
class _Blends:
    """For each view the look that it is blended with, and how much of its own is left."""

    partner: Tensor
    weight: Tensor  # 1: not blended


@dataclass(frozen=True)
class _Pastes:
    """For each view the one, blended itself, of which a part is pasted on it; how much, and where."""

    partner: Tensor
    share: Tensor  # of the area; 0: nothing is pasted
    place: Tensor  # a box: [views, 2], its middle in shares; blobs: [views, 1, rows, columns] of a rough landscape


class Views:
    """`count` looks at each image; `views[i]` are uint8 pixels, `views.normalised(i)` what the networks see."""

    def __init__(
        self,
        pixels: Tensor,
        preprocess: Preprocess,
        augment: Augment,
        count: int,
        seed: int,
        synthetic: Tensor | None = None,
        room: int = 0,
    ) -> None:
        """With `synthetic` images too, up to half of the looks are at those. What fits into so many bytes of `room` is
        drawn once and remembered."""
        self.pixels, self.preprocess, self.augment = pixels, preprocess, augment
        generator = torch.Generator().manual_seed(seed)
        self._looks = _draw_looks(pixels, preprocess, augment, count, generator)
        if synthetic is not None:
            self.pixels = torch.cat([pixels, synthetic])
            image = _among_synthetic(self._looks.image, len(pixels), len(synthetic), generator)
            self._looks = replace(self._looks, image=image)
        self._blends = _draw_blends(len(self), augment.mixup, generator)
        self._pastes = _draw_pastes(len(self), augment.cutmix, generator)
        size = len(self) * math.prod(self.shape)
        self.remembered = size if size <= room else 0  # bytes
        self._drawn = torch.empty(len(self), *self.shape, dtype=torch.uint8) if self.remembered else None
        self._is_drawn = torch.zeros(len(self), dtype=torch.bool)
        self._inside = _in_blobs if augment.cutmix is not None and augment.cutmix.shape == "blobs" else _in_box

    def __len__(self) -> int:
        return len(self._looks.image)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.pixels.shape[1], *self.preprocess.size)

    def __getitem__(self, index: Tensor) -> Tensor:
        """uint8 [len(index), channels, height, width]."""
        if self._drawn is None:
            return self._draw(index)
        new = index[~self._is_drawn[index]]
        if len(new):
            self._drawn[new], self._is_drawn[new] = self._draw(new), True
        return self._drawn[index]

    def _draw(self, index: Tensor) -> Tensor:
        values = math.prod(self.shape)
        return torch.cat([self._draw_some(some) for some in index.split(max(1, _AT_ONCE // values))])

    def _draw_some(self, index: Tensor) -> Tensor:
        shown = self._blended(index)
        pasted = self._pastes.share[index] > 0
        if bool(pasted.any()):
            some = index[pasted]
            inside = self._inside(self._pastes.place[some], self._pastes.share[some], self.preprocess.size)
            shown[pasted] = torch.where(inside, self._blended(self._pastes.partner[some]), shown[pasted])
        return shown.round_().clamp_(0, 255).to(torch.uint8)

    def normalised(self, index: Tensor) -> Tensor:
        return normalise(self[index], self.preprocess)

    def _blended(self, index: Tensor) -> Tensor:
        shown = self._look(index)
        blended = self._blends.weight[index] < 1
        if bool(blended.any()):
            some = index[blended]
            weight = self._blends.weight[some][:, None, None, None]
            shown[blended] = weight * shown[blended] + (1 - weight) * self._look(self._blends.partner[some])
        return shown

    def _look(self, index: Tensor) -> Tensor:
        looks = self._looks
        pixels = self.pixels[looks.image[index]].float()
        shown = _crop(pixels, looks.box[index], looks.mirror[index], self.preprocess.size)
        return _recolour(shown, looks.colour[index]) if self.augment.colour is not None else shown


def plain(pixels: Tensor, preprocess: Preprocess) -> Tensor:
    """The images as they are evaluated, ready for the networks."""
    return normalise(centre(pixels, preprocess), preprocess)


# -- drawing ------------------------------------------------------------------------------------------------------


def _draw_looks(
    pixels: Tensor, preprocess: Preprocess, augment: Augment, count: int, generator: torch.Generator
) -> _Looks:
    images = len(pixels)
    total = images * count
    box = _draw_boxes(total, tuple(pixels.shape[2:]), preprocess.size, augment, generator)
    mirror = 1 - 2 * (torch.rand(total, generator=generator) < (0.5 if augment.flip else 0.0)).float()
    return _Looks(torch.arange(images).repeat(count), box, mirror, _draw_colours(total, augment.colour, generator))


def _among_synthetic(image: Tensor, images: int, synthetic: int, generator: torch.Generator) -> Tensor:
    """The images that are looked at, some of them synthetic ones, which follow the others: as large a part as they are
    of all, at most half."""
    share = min(0.5, synthetic / (images + synthetic))
    chosen = torch.rand(len(image), generator=generator) < share
    return torch.where(chosen, images + torch.randint(synthetic, image.shape, generator=generator), image)


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


def _draw_blends(total: int, mixup: Mix | None, generator: torch.Generator) -> _Blends:
    partner = torch.randperm(total, generator=generator)
    if mixup is None:
        return _Blends(partner, torch.ones(total))
    chosen = torch.rand(total, generator=generator) < mixup.share
    return _Blends(partner, torch.where(chosen, _beta(total, mixup.alpha, generator), torch.ones(total)))


def _draw_pastes(total: int, cutmix: Paste | None, generator: torch.Generator) -> _Pastes:
    partner = torch.randperm(total, generator=generator)
    if cutmix is None:
        return _Pastes(partner, torch.zeros(total), torch.zeros(total, 2))
    chosen = torch.rand(total, generator=generator) < cutmix.share
    share = torch.where(chosen, 1 - _beta(total, cutmix.alpha, generator), torch.zeros(total))
    if cutmix.shape == "blobs":
        return _Pastes(partner, share, torch.randn(total, 1, _HILLS, _HILLS, generator=generator).half())
    return _Pastes(partner, share, torch.rand(total, 2, generator=generator))


def _beta(total: int, alpha: float, generator: torch.Generator) -> Tensor:
    """Beta(alpha, alpha): the share of one of two numbers of a gamma distribution.

    Not from torch.distributions, which heeds no generator; beneath it lies this.
    """
    if alpha == 1:
        return torch.rand(total, generator=generator)
    x, y = torch._standard_gamma(torch.full((2, total), alpha, dtype=torch.float64), generator=generator)
    found: Tensor = (x / (x + y)).float()
    return found


# -- showing ------------------------------------------------------------------------------------------------------


def _crop(pixels: Tensor, box: Tensor, mirror: Tensor, size: tuple[int, int]) -> Tensor:
    """The boxed part of each image at the network's size; black outside. A box in whole pixels is copied exactly."""
    height, width = pixels.shape[2:]
    across = _places(box[:, 0] / width, box[:, 2] / width * mirror, size[1])[:, None, :]
    down = _places(box[:, 1] / height, box[:, 3] / height, size[0])[:, :, None]
    grid = torch.stack(torch.broadcast_tensors(across, down), -1)
    # black beyond the image, but no black mixed into the outermost pixels of a part that ends with the image
    inside = ((across.abs() <= 1) & (down.abs() <= 1))[:, None]
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False) * inside


def _places(middle: Tensor, length: Tensor, count: int) -> Tensor:
    """The middles of so many pixels along a part of a side, where the side goes from -1 to 1. [views, count]."""
    pixels = (2 * torch.arange(count) + 1) / count - 1
    return (2 * middle - 1)[:, None] + length[:, None] * pixels


def _recolour(pixels: Tensor, factors: Tensor) -> Tensor:
    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(1)
    pixels = pixels * brightness
    pixels = (pixels - pixels.mean((1, 2, 3), keepdim=True)) * contrast + pixels.mean((1, 2, 3), keepdim=True)
    grey = pixels.mean(1, keepdim=True)
    return ((pixels - grey) * saturation + grey).clamp_(0, 255)


def _in_box(middle: Tensor, share: Tensor, size: tuple[int, int]) -> Tensor:
    """A box of that share of the area, less what of it is beyond the view."""
    half = share.sqrt()[:, None] / 2
    (left, top), (right, bottom) = ((middle + side).clamp(0, 1)[:, :, None].unbind(1) for side in (-half, half))
    rows, columns = (torch.arange(n) + 0.5 for n in size)
    down = (rows > top * size[0]) & (rows < bottom * size[0])
    across = (columns > left * size[1]) & (columns < right * size[1])
    return (down[:, :, None] & across[:, None, :])[:, None]


def _in_blobs(heights: Tensor, share: Tensor, size: tuple[int, int]) -> Tensor:
    """What lies above the height that leaves that share of a smooth landscape, told on a coarse map of it."""
    coarse = F.interpolate(heights.float(), size=(_COARSE, _COARSE), mode="bicubic", align_corners=True)
    rank = (share * _COARSE**2).long().clamp(max=_COARSE**2 - 1)
    water = coarse.flatten(1).sort(1, descending=True).values.gather(1, rank[:, None])
    return F.interpolate(coarse, size=size, mode="bilinear") > water[:, :, None, None]
