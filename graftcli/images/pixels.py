"""One image file's bytes -> the network's pixels.

normalise(decode(data, fit), fit) is what timm's and torchvision's evaluation transforms give for that image
centre(decode(data, whole), fit) == decode(data, fit), bit for bit
"""

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from graftcli.errors import UsageError
from graftcli.images.sources import Refused

# By name, and these alone: newer Pillows have more, and a recipe must mean the same on every machine.
KERNELS = {
    name: Image.Resampling[name.upper()] for name in ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
}
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
MOST_PIXELS = 178_956_970  # where Pillow, too, takes an image for a decompression bomb


@dataclass(frozen=True)
class Fit:
    """How an image becomes the network's pixels: short side to size / crop_pct, centre crop, mean and std; with
    `squash` both sides, whatever the image's proportions.

    With `whole`, more than that crop is kept: `kept` pixels around the centre of the resized image, which for a
    square size is a square of its full short side, so that views can be cropped from it. `centre` then gives the crop.
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
            raise UsageError("\n".join(faults), "Correct these settings of the images.")

    @property
    def resized(self) -> tuple[int, int]:
        """The height and width that a resized image just covers; one of them it meets, the other it may exceed."""
        height, width = (max(1, math.floor(side / self.crop_pct)) for side in self.size)
        return height, width

    @property
    def kept(self) -> tuple[int, int]:
        """The height and width of what `decode` keeps."""
        if not self.whole:
            return self.size
        return max(self.size[0], self.resized[0]), max(self.size[1], self.resized[1])


@dataclass(frozen=True)
class Stored:
    """An image as it lies in its file; width and height are those that a viewer shows."""

    width: int
    height: int
    format: str
    mode: str  # Pillow's: RGB, L, RGBA, P, CMYK, I;16, …


def decode(data: bytes, fit: Fit) -> NDArray[np.uint8]:
    """The image in `data` as uint8 [channels, *fit.kept]; raises Refused, or what Pillow raises for damaged data."""
    return fitted(read(data, fit.channels)[0], fit)


def read(data: bytes, channels: int) -> tuple[Image.Image, Stored]:
    """The image in `data`, upright, as 8 bit grey or RGB, and what it was; raises as `decode`."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        _bounded(image.size, "it has")
        kind, mode = image.format or "", image.mode
        flat = _flat(ImageOps.exif_transpose(image), kind, channels)
    return flat, Stored(*flat.size, kind, mode)


def fitted(flat: Image.Image, fit: Fit) -> NDArray[np.uint8]:
    """What `decode` keeps of an image that was read."""
    size = _resized(*flat.size, fit)
    _bounded(size, f"it has {flat.width}x{flat.height} pixels and would be resized to")
    small = flat.resize(size, KERNELS[fit.interpolation]).crop(_box(*size, fit))
    return np.asarray(small).reshape(*fit.kept, fit.channels).transpose(2, 0, 1)


def centre(pixels: Tensor, fit: Fit) -> Tensor:
    """The final crop out of what was kept, as a view; where no more was kept, all of it."""
    (height, width), (tall, wide) = fit.size, pixels.shape[-2:]
    top, left = _start(tall, height), _start(wide, width)
    return pixels[..., top : top + height, left : left + width]


def normalise(pixels: Tensor, fit: Fit) -> Tensor:
    """(pixels / 255 - mean) / std in float32, on the device of `pixels`."""
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=pixels.device).view(-1, 1, 1) for values in (fit.mean, fit.std)
    )
    return pixels.to(torch.float32).div(255).sub_(mean).div_(std)


def _faults(fit: Fit) -> Iterator[str]:
    if min(fit.size) < 1:
        yield f"the image size is {fit.size[0]}x{fit.size[1]}: each side must be at least 1."
    if fit.channels not in (1, 3):
        yield f"the network reads {fit.channels} channels, but images have 1 (grey) or 3 (colour)."
    elif not len(fit.mean) == len(fit.std) == fit.channels:
        yield f"there are {len(fit.mean)} means and {len(fit.std)} stds for {fit.channels} channels: one a channel."
    if not all(0 < std < math.inf for std in fit.std):
        yield f"the stds are {fit.std}: each must be above 0."
    if not all(map(math.isfinite, fit.mean)):
        yield f"the means are {fit.mean}: each must be a number."
    if not 0 < fit.crop_pct < math.inf:
        yield f"crop_pct is {fit.crop_pct}: it must be above 0."
    if fit.interpolation not in KERNELS:
        yield f"interpolation `{fit.interpolation}` is unknown: known are {', '.join(KERNELS)}."


def _start(length: int, crop: int) -> int:
    """Where torchvision's centre crop starts; below 0 where it pads with black."""
    return round((length - crop) / 2) if length >= crop else -((crop - length) // 2)


def _resized(width: int, height: int, fit: Fit) -> tuple[int, int]:
    """Width and height of the resized image, rounded as torchvision does for a square size and timm for any other."""
    tall, wide = fit.resized
    if fit.squash:
        return wide, tall
    if tall == wide:
        return (wide, int(wide * height / width)) if width <= height else (int(tall * width / height), tall)
    ratio = min(height / tall, width / wide)
    return round(width / ratio), round(height / ratio)


def _box(width: int, height: int, fit: Fit) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what is kept of a resized image: its centre crop lies where `centre` looks for it.

    A plain centre crop to `kept` would not do: both crops round, and the two together are one pixel off for some sizes.
    """
    (tall, wide), (final_tall, final_wide) = fit.kept, fit.size
    left = _start(width, final_wide) - _start(wide, final_wide)
    top = _start(height, final_tall) - _start(tall, final_tall)
    return left, top, left + wide, top + tall


def _bounded(size: tuple[int, int], found: str) -> None:
    if size[0] * size[1] > MOST_PIXELS:
        raise Refused(f"{found} {size[0]}x{size[1]} pixels; {MOST_PIXELS / 1e6:.0f} million are the most that are read")


def _flat(image: Image.Image, stored: str, channels: int) -> Image.Image:
    """The image as 8 bit grey or RGB, on white where it is transparent; `stored` is the format of its file."""
    if image.mode.startswith("I;16") or (image.mode == "I" and stored == "PNG"):
        image = Image.fromarray(_levels(np.asarray(image), 65535))
    elif image.mode in ("I", "F"):
        image = Image.fromarray(_levels(np.asarray(image)))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        image = white
    return image.convert("L" if channels == 1 else "RGB")


def _levels(values: NDArray[Any], top: int | None = None) -> NDArray[np.uint8]:
    """`values` in 0..top as 0..255; without `top`, in the first usual range that holds them, else from min to max."""
    shades = values.astype(np.float64)
    real = shades[np.isfinite(shades)]
    low, high = (float(real.min()), float(real.max())) if real.size else (0.0, 0.0)
    usual = (1, 255, 65535) if values.dtype.kind == "f" else (255, 65535)
    top = top or next((end for end in usual if low >= 0 and high <= end), None)
    start, span = (0.0, top) if top else (low, (high - low) or 1.0)
    shades = np.nan_to_num(shades, nan=low, posinf=high, neginf=low)
    return ((shades - start) * 255 / span).round().astype(np.uint8)
