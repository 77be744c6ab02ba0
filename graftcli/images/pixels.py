"""Decode image files into the network's pixels.

normalise(decode(data, preprocess), preprocess) equals timm's and torchvision's evaluation transforms
center_crop(decode(data, whole), preprocess) == decode(data, preprocess), bit for bit
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFile
from torch import Tensor

from graftcli.errors import UsageError
from graftcli.images.flat import WORKING, flat, flat_mode
from graftcli.images.headers import (
    TimedStream,
    count_scans,
    is_sideways,
    may_be_rotated,
    pixel_bytes,
    upright,
    working_bytes,
)
from graftcli.images.limits import Allowance
from graftcli.images.refusal import Refused

# A fixed list: newer Pillow versions have more, and a recipe must mean the same on every machine.
KERNELS = {
    name: Image.Resampling[name.upper()] for name in ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
}
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
MAX_PIXELS = 178_956_970  # Pillow's limit for decompression bombs
_MAX_SCANNED_PIXELS = 2**33  # of all scans of a JPEG: 48 scans of the largest image
_FINGERPRINT_SIDE = 128  # pixels per side that a fingerprint needs


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
        """The height and width that a resized image just covers: it meets one and may exceed the other."""
        height, width = (max(1, math.floor(side / self.crop_pct)) for side in self.size)
        return height, width

    @property
    def stored_size(self) -> tuple[int, int]:
        """The height and width of the pixels that `decode` returns."""
        if not self.whole:
            return self.size
        return max(self.size[0], self.resized[0]), max(self.size[1], self.resized[1])


@dataclass(frozen=True)
class StoredImage:
    """An image as stored in its file; width and height are those of the upright image."""

    width: int
    height: int
    format: str
    mode: str  # of Pillow: RGB, L, RGBA, P, CMYK, I;16, …


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image: upright, 8-bit grey or RGB."""

    flat: Image.Image
    stored: StoredImage


def decode(data: bytes, preprocess: Preprocess, allowance: Allowance | None = None) -> NDArray[np.uint8]:
    """Decode an image to uint8 [channels, *preprocess.stored_size]; raises Refused, or Pillow's errors."""
    with open_image(data, preprocess.channels, preprocess, allowance) as image:
        return resize_and_crop(image, preprocess)


@contextmanager
def open_image(
    data: bytes, channels: int, preprocess: Preprocess | None = None, allowance: Allowance | None = None
) -> Iterator[DecodedImage]:
    """Decode an image to upright 8-bit grey or RGB; its memory is reserved inside the context. Raises as `decode` does.

    A JPEG that exceeds the memory budget is decoded at a smaller scale, never below the size that `preprocess` needs.
    """
    allowance = allowance or Allowance()
    allowance.check()
    scans = count_scans(data)
    with Image.open(TimedStream(data, allowance), formats=FORMATS) as image:
        _check_pixels(image.size, "it has")
        if scans * image.width * image.height > _MAX_SCANNED_PIXELS:
            size = f"{image.width}x{image.height}"
            raise Refused(f"it has {scans} scans of {size} pixels, which only a decompression bomb has")
        opened = _Opened(image, image.size, data, scans, may_be_rotated(image, data), channels)
        if opened.memory(preprocess) > allowance.available and image.format in ("JPEG", "MPO"):
            image.draft(None, _min_size(image, preprocess))
        with allowance.reserve(opened.memory(preprocess)):
            try:
                decoded = _decode(opened)
                yield decoded
                decoded.flat.close()
            finally:
                image.close()  # frees its pixels before their memory is released


def resize_and_crop(image: DecodedImage, preprocess: Preprocess) -> NDArray[np.uint8]:
    """Resize and crop a decoded image to uint8 [channels, *preprocess.stored_size]."""
    width, height = image.stored.width, image.stored.height
    size = _resized(width, height, preprocess)
    _check_pixels(size, f"it has {width}x{height} pixels and would be resized to")
    small = image.flat.resize(size, KERNELS[preprocess.interpolation]).crop(_box(*size, preprocess))
    mode = "L" if preprocess.channels == 1 else "RGB"
    if small.mode != mode:  # grey is resized before it is expanded: the same values, a third of the memory
        small = small.convert(mode)
    return np.asarray(small).reshape(*preprocess.stored_size, preprocess.channels).transpose(2, 0, 1)


@dataclass(frozen=True)
class _Opened:
    """An image whose header is read."""

    image: ImageFile.ImageFile
    size: tuple[int, int]  # of the full image; `image.size` is smaller if it is decoded at a smaller scale
    data: bytes
    scans: int
    rotated: bool
    channels: int

    def memory(self, preprocess: Preprocess | None) -> int:
        """Bytes for the file, the decoder, the stored pixels, and the converted and resized ones."""
        image, pixels = self.image, self.image.width * self.image.height
        source = pixels * pixel_bytes(image.mode)
        mode = flat_mode(image, self.channels)
        same = image.mode == mode and not image.has_transparency_data
        converted = pixels * pixel_bytes(mode)
        copies = (working_bytes(image, self.size, self.data, self.scans), 0 if same else converted + WORKING)
        decoding = source + max(*copies, source if self.rotated else 0)
        resized = _resize_pixels(self.size, preprocess) * pixel_bytes(mode) if preprocess else 0
        return len(self.data) + max(decoding, converted + resized)


def _resize_pixels(size: tuple[int, int], preprocess: Preprocess) -> int:
    """Pixels of the resized image and of the intermediate one, for the larger of both orientations."""

    def pixels(width: int, height: int) -> int:
        wide, tall = _resized(width, height, preprocess)
        return min(MAX_PIXELS, wide * tall) + max(wide * height, width * tall)

    return max(pixels(*size), pixels(*size[::-1]))


def _min_size(image: ImageFile.ImageFile, preprocess: Preprocess | None) -> tuple[int, int]:
    """The smallest width and height at which the stored image is still large enough."""
    sideways = is_sideways(image)
    width, height = image.size[::-1] if sideways else image.size
    wide, tall = _resized(width, height, preprocess) if preprocess else (1, 1)
    wide, tall = max(wide, _FINGERPRINT_SIDE), max(tall, _FINGERPRINT_SIDE)
    return (tall, wide) if sideways else (wide, tall)


def _decode(opened: _Opened) -> DecodedImage:
    """Decode the pixels; each intermediate copy is freed as soon as possible."""
    image, format_, mode = opened.image, opened.image.format or "", opened.image.mode
    full_size = opened.size if image.size != opened.size else None
    sideways = full_size is not None and is_sideways(image)
    image.load()
    turned = upright(image)
    if turned is not image:
        image.close()
    converted = flat(turned, format_, opened.channels)
    if converted is not turned:
        turned.close()
    width, height = (full_size[::-1] if sideways else full_size) if full_size else converted.size
    return DecodedImage(converted, StoredImage(width, height, format_, mode))


def center_crop(pixels: Tensor, preprocess: Preprocess) -> Tensor:
    """The final crop of decoded pixels, as a view; all of them if they are that crop already."""
    (height, width), (tall, wide) = preprocess.size, pixels.shape[-2:]
    top, left = _crop_start(tall, height), _crop_start(wide, width)
    return pixels[..., top : top + height, left : left + width]


def normalise(pixels: Tensor, preprocess: Preprocess) -> Tensor:
    """Return (pixels / 255 - mean) / std in float32, on the device of `pixels`."""
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=pixels.device).view(-1, 1, 1)
        for values in (preprocess.mean, preprocess.std)
    )
    return pixels.to(torch.float32).div(255).sub_(mean).div_(std)


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


def _crop_start(length: int, crop: int) -> int:
    """Where torchvision's centre crop starts; negative if it pads with black."""
    return round((length - crop) / 2) if length >= crop else -((crop - length) // 2)


def _resized(width: int, height: int, preprocess: Preprocess) -> tuple[int, int]:
    """Width and height of the resized image, rounded as torchvision does for square sizes and timm for others."""
    tall, wide = preprocess.resized
    if preprocess.squash:
        return wide, tall
    if tall == wide:
        return (wide, int(wide * height / width)) if width <= height else (int(tall * width / height), tall)
    ratio = min(height / tall, width / wide)
    return round(width / ratio), round(height / ratio)


def _box(width: int, height: int, preprocess: Preprocess) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the stored part of a resized image.

    Not simply its centre crop: that crop and `center_crop` both round, which is off by one pixel for some sizes.
    """
    (tall, wide), (final_tall, final_wide) = preprocess.stored_size, preprocess.size
    left = _crop_start(width, final_wide) - _crop_start(wide, final_wide)
    top = _crop_start(height, final_tall) - _crop_start(tall, final_tall)
    return left, top, left + wide, top + tall


def _check_pixels(size: tuple[int, int], prefix: str) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise Refused(f"{prefix} {size[0]}x{size[1]} pixels; the limit is {MAX_PIXELS / 1e6:.0f} million")
