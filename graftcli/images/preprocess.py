"""How an image becomes the network's input: the settings, and the geometry of resizing and cropping."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from graftcli.errors import UsageError

# A fixed list: newer Pillow versions have more, and a recipe must mean the same on every machine.
KERNELS = {
    name: Image.Resampling[name.upper()] for name in ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
}


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes the network's input: resize the short side to size / crop_pct, centre crop, normalise.

    With `squash`, both sides are resized, ignoring the aspect ratio. With `whole`, `decode` keeps more than the crop:
    `stored_size` pixels around the centre of the resized image, from which views are cropped; `center_crop` gives the
    final crop.
    """

    size: tuple[int, int]  # height, width
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float
    interpolation: str
    whole: bool = False
    squash: bool = False

    def __post_init__(self) -> None:
        if faults := list(_faults(self)):
            raise UsageError("\n".join(faults), "Correct these preprocessing settings.")

    @property
    def resized(self) -> tuple[int, int]:
        """The minimum height and width of a resized image, which has exactly one of them and may exceed the other."""
        height, width = (max(1, math.floor(side / self.crop_pct)) for side in self.size)
        return height, width

    @property
    def stored_size(self) -> tuple[int, int]:
        """The height and width of the pixels that `decode` returns."""
        if not self.whole:
            return self.size
        return max(self.size[0], self.resized[0]), max(self.size[1], self.resized[1])


def crop_start(length: int, crop: int) -> int:
    """Where torchvision's centre crop starts; negative if it pads with black."""
    return round((length - crop) / 2) if length >= crop else -((crop - length) // 2)


def resized_size(width: int, height: int, preprocess: Preprocess) -> tuple[int, int]:
    """Width and height of the resized image, rounded as torchvision does for square sizes and timm for others."""
    tall, wide = preprocess.resized
    if preprocess.squash:
        return wide, tall
    if tall == wide:
        return (wide, int(wide * height / width)) if width <= height else (int(tall * width / height), tall)
    ratio = min(height / tall, width / wide)
    return round(width / ratio), round(height / ratio)


def stored_box(width: int, height: int, preprocess: Preprocess) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the stored part of a resized image.

    This is not simply the centre crop: that crop and `center_crop` both round, so that the result would be off by one
    pixel for some sizes.
    """
    (tall, wide), (final_tall, final_wide) = preprocess.stored_size, preprocess.size
    left = crop_start(width, final_wide) - crop_start(wide, final_wide)
    top = crop_start(height, final_tall) - crop_start(tall, final_tall)
    return left, top, left + wide, top + tall


def _faults(preprocess: Preprocess) -> Iterator[str]:
    if min(preprocess.size) < 1:
        yield f"the image size is {preprocess.size[0]}x{preprocess.size[1]}: each side must be at least 1."
    if preprocess.channels not in (1, 3):
        yield f"the network takes {preprocess.channels} channels, but images have 1 (grey) or 3 (colour)."
    elif not len(preprocess.mean) == len(preprocess.std) == preprocess.channels:
        means, stds = len(preprocess.mean), len(preprocess.std)
        yield f"there are {means} means and {stds} stds for {preprocess.channels} channels: give one per channel."
    if not all(0 < std < math.inf for std in preprocess.std):
        yield f"the stds are {preprocess.std}: each must be above 0."
    if not all(map(math.isfinite, preprocess.mean)):
        yield f"the means are {preprocess.mean}: each must be a number."
    if not 0 < preprocess.crop_pct < math.inf:
        yield f"crop_pct is {preprocess.crop_pct}: it must be above 0."
    if preprocess.interpolation not in KERNELS:
        yield f"interpolation `{preprocess.interpolation}` is unknown: known are {', '.join(KERNELS)}."
