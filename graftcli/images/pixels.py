"""One image file's bytes -> the network's pixels.

normalise(decode(data, fit), fit) is what timm's and torchvision's evaluation transforms give for that image
centre(decode(data, whole), fit) == decode(data, fit), bit for bit
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
from graftcli.images.headers import Watched, is_on_side, is_turned, pixel_bytes, scans, upright, working_bytes
from graftcli.images.limits import Allowance
from graftcli.images.refusal import Refused

# By name, and these alone: newer Pillows have more, and a recipe must mean the same on every machine.
KERNELS = {
    name: Image.Resampling[name.upper()] for name in ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
}
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
MOST_PIXELS = 178_956_970  # where Pillow, too, takes an image for a decompression bomb
_MOST_WORK = 2**33  # pixels of all scans of a JPEG: twenty of the largest image, which take ten seconds
_FOR_FINGERPRINTS = 128  # pixels of each side, with which the small picture of a fingerprint is as good as with more


@dataclass(frozen=True)
class Preprocess:
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
class StoredImage:
    """An image as it lies in its file; width and height are those that a viewer shows."""

    width: int
    height: int
    format: str
    mode: str  # Pillow's: RGB, L, RGBA, P, CMYK, I;16, …


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image: upright, 8 bit grey or RGB."""

    flat: Image.Image
    stored: StoredImage


def decode(data: bytes, preprocess: Preprocess, allowance: Allowance | None = None) -> NDArray[np.uint8]:
    """The image in `data` as uint8 [channels, *fit.kept]; raises Refused, or what Pillow raises for damaged data."""
    with reading(data, preprocess.channels, preprocess, allowance) as picture:
        return fitted(picture, preprocess)


@contextmanager
def reading(
    data: bytes, channels: int, preprocess: Preprocess | None = None, allowance: Allowance | None = None
) -> Iterator[DecodedImage]:
    """The image in `data`, upright, as 8 bit grey or RGB, its memory reserved inside the context; raises as `decode`.

    A JPEG that exceeds the memory budget is decoded at a smaller scale, never below the size that `preprocess` needs.
    """
    allowance = allowance or Allowance()
    allowance.check()
    passes = scans(data)
    with Image.open(Watched(data, allowance), formats=FORMATS) as image:
        _bounded(image.size, "it has")
        if passes * image.width * image.height > _MOST_WORK:
            raise Refused(
                f"it has {passes} scans of {image.width}x{image.height} pixels, as only a decompression bomb has"
            )
        opened = _Opened(image, image.size, data, passes, is_turned(image, data), channels)
        if opened.need(preprocess) > allowance.most and image.format in ("JPEG", "MPO"):
            image.draft(None, _least(image, preprocess))
        with allowance.room(opened.need(preprocess)):
            try:
                picture = _picture(opened)
                yield picture
                picture.flat.close()
            finally:
                image.close()  # its pixels too, before the room for them is given back


def fitted(picture: DecodedImage, preprocess: Preprocess) -> NDArray[np.uint8]:
    """What `decode` keeps of an image that was read."""
    shown = picture.stored
    size = _resized(shown.width, shown.height, preprocess)
    _bounded(size, f"it has {shown.width}x{shown.height} pixels and would be resized to")
    small = picture.flat.resize(size, KERNELS[preprocess.interpolation]).crop(_box(*size, preprocess))
    mode = "L" if preprocess.channels == 1 else "RGB"
    if small.mode != mode:  # grey, resized before it is expanded: the same values from a third of the memory
        small = small.convert(mode)
    return np.asarray(small).reshape(*preprocess.kept, preprocess.channels).transpose(2, 0, 1)


@dataclass(frozen=True)
class _Opened:
    """An image whose header was read."""

    image: ImageFile.ImageFile
    size: tuple[int, int]  # of the whole image; `image` has a smaller one once it is to be decoded at a smaller scale
    data: bytes
    passes: int
    turned: bool
    channels: int

    def need(self, preprocess: Preprocess | None) -> int:
        """Bytes for the file, the decoder, the pixels as they are stored, and what they are converted to."""
        image, pixels = self.image, self.image.width * self.image.height
        source = pixels * pixel_bytes(image.mode)
        mode = flat_mode(image, self.channels)
        same = image.mode == mode and not image.has_transparency_data
        flat_ = pixels * pixel_bytes(mode)
        copies = (working_bytes(image, self.size, self.data, self.passes), 0 if same else flat_ + WORKING)
        decoding = source + max(*copies, source if self.turned else 0)
        return len(self.data) + max(
            decoding, flat_ + (_resizing(self.size, preprocess) * pixel_bytes(mode) if preprocess else 0)
        )


def _resizing(size: tuple[int, int], preprocess: Preprocess) -> int:
    """Pixels of the resized image and of one that is resized along one side, whichever way the image stands."""

    def pixels(width: int, height: int) -> int:
        wide, tall = _resized(width, height, preprocess)
        return min(MOST_PIXELS, wide * tall) + max(wide * height, width * tall)

    return max(pixels(*size), pixels(*size[::-1]))


def _least(image: ImageFile.ImageFile, preprocess: Preprocess | None) -> tuple[int, int]:
    """The least width and height at which an image serves, as it lies in its file."""
    on_side = is_on_side(image)
    width, height = image.size[::-1] if on_side else image.size
    wide, tall = _resized(width, height, preprocess) if preprocess else (1, 1)
    wide, tall = max(wide, _FOR_FINGERPRINTS), max(tall, _FOR_FINGERPRINTS)
    return (tall, wide) if on_side else (wide, tall)


def _picture(opened: _Opened) -> DecodedImage:
    """The pixels, with no more of them in memory than are needed at once."""
    image, kind, mode = opened.image, opened.image.format or "", opened.image.mode
    whole = opened.size if image.size != opened.size else None
    on_side = whole is not None and is_on_side(image)
    image.load()
    standing = upright(image)
    if standing is not image:
        image.close()
    plain = flat(standing, kind, opened.channels)
    if plain is not standing:
        standing.close()
    width, height = (whole[::-1] if on_side else whole) if whole else plain.size
    return DecodedImage(plain, StoredImage(width, height, kind, mode))


def centre(pixels: Tensor, preprocess: Preprocess) -> Tensor:
    """The final crop out of what was kept, as a view; where no more was kept, all of it."""
    (height, width), (tall, wide) = preprocess.size, pixels.shape[-2:]
    top, left = _start(tall, height), _start(wide, width)
    return pixels[..., top : top + height, left : left + width]


def normalise(pixels: Tensor, preprocess: Preprocess) -> Tensor:
    """(pixels / 255 - mean) / std in float32, on the device of `pixels`."""
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=pixels.device).view(-1, 1, 1)
        for values in (preprocess.mean, preprocess.std)
    )
    return pixels.to(torch.float32).div(255).sub_(mean).div_(std)


def _faults(preprocess: Preprocess) -> Iterator[str]:
    if min(preprocess.size) < 1:
        yield f"the image size is {preprocess.size[0]}x{preprocess.size[1]}: each side must be at least 1."
    if preprocess.channels not in (1, 3):
        yield f"the network reads {preprocess.channels} channels, but images have 1 (grey) or 3 (colour)."
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


def _start(length: int, crop: int) -> int:
    """Where torchvision's centre crop starts; below 0 where it pads with black."""
    return round((length - crop) / 2) if length >= crop else -((crop - length) // 2)


def _resized(width: int, height: int, preprocess: Preprocess) -> tuple[int, int]:
    """Width and height of the resized image, rounded as torchvision does for a square size and timm for any other."""
    tall, wide = preprocess.resized
    if preprocess.squash:
        return wide, tall
    if tall == wide:
        return (wide, int(wide * height / width)) if width <= height else (int(tall * width / height), tall)
    ratio = min(height / tall, width / wide)
    return round(width / ratio), round(height / ratio)


def _box(width: int, height: int, preprocess: Preprocess) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what is kept of a resized image: its centre crop lies where `centre` looks for it.

    A plain centre crop to `kept` would not do: both crops round, and the two together are one pixel off for some sizes.
    """
    (tall, wide), (final_tall, final_wide) = preprocess.kept, preprocess.size
    left = _start(width, final_wide) - _start(wide, final_wide)
    top = _start(height, final_tall) - _start(tall, final_tall)
    return left, top, left + wide, top + tall


def _bounded(size: tuple[int, int], found: str) -> None:
    if size[0] * size[1] > MOST_PIXELS:
        raise Refused(f"{found} {size[0]}x{size[1]} pixels; {MOST_PIXELS / 1e6:.0f} million are the most that are read")
