"""Decode image files into the network's pixels.

normalise(decode(data, preprocess), preprocess) equals timm's and torchvision's evaluation transforms
center_crop(decode(data, whole), preprocess) == decode(data, preprocess), bit for bit
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFile
from torch import Tensor

from graftcli.images.file_formats import FORMATS
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
from graftcli.images.preprocess import KERNELS, Preprocess, crop_start, resized_size, stored_box
from graftcli.images.refusal import Refused

__all__ = [
    "DecodedImage",
    "Preprocess",
    "StoredImage",
    "center_crop",
    "decode",
    "normalise",
    "open_image",
    "resize_and_crop",
]

MAX_PIXELS = 178_956_970  # Pillow's limit for decompression bombs
_MAX_SCANNED_PIXELS = 2**33  # pixels over all scans of a JPEG: 48 scans of the largest image
_FINGERPRINT_SIDE = 128  # pixels per side that a fingerprint needs


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
    with Image.open(TimedStream(data, allowance), formats=tuple(FORMATS)) as image:
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
    size = resized_size(width, height, preprocess)
    _check_pixels(size, f"it has {width}x{height} pixels and would be resized to")
    small = image.flat.resize(size, KERNELS[preprocess.interpolation]).crop(stored_box(*size, preprocess))
    mode = "L" if preprocess.channels == 1 else "RGB"
    if small.mode != mode:  # grey is resized before it is expanded to RGB: equal values in a third of the memory
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
        wide, tall = resized_size(width, height, preprocess)
        return min(MAX_PIXELS, wide * tall) + max(wide * height, width * tall)

    return max(pixels(*size), pixels(*size[::-1]))


def _min_size(image: ImageFile.ImageFile, preprocess: Preprocess | None) -> tuple[int, int]:
    """The smallest width and height at which the stored image is still large enough."""
    sideways = is_sideways(image)
    width, height = image.size[::-1] if sideways else image.size
    wide, tall = resized_size(width, height, preprocess) if preprocess else (1, 1)
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
    """The final crop of decoded pixels, as a view; all pixels if they are that crop already."""
    (height, width), (tall, wide) = preprocess.size, pixels.shape[-2:]
    top, left = crop_start(tall, height), crop_start(wide, width)
    return pixels[..., top : top + height, left : left + width]


def normalise(pixels: Tensor, preprocess: Preprocess) -> Tensor:
    """Return (pixels / 255 - mean) / std in float32, on the device of `pixels`."""
    mean, std = (_per_channel(values, pixels.device) for values in (preprocess.mean, preprocess.std))
    return pixels.to(torch.float32).div(255).sub_(mean).div_(std)


@cache
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """One value per channel, cached on the device, because copying it for each batch would be synchronous."""
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1).to(device)


def _check_pixels(size: tuple[int, int], prefix: str) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise Refused(f"{prefix} {size[0]}x{size[1]} pixels; the limit is {MAX_PIXELS / 1e6:.0f} million")
