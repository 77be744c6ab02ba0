"""Convert images of any Pillow mode to 8-bit grey or RGB, tile by tile to bound memory."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Box = tuple[int, int, int, int]  # left, top, right, bottom
Levels = Callable[[NDArray[np.generic]], NDArray[np.uint8]]

TILE = 2**20  # pixels converted at once
WORKING = 48 * TILE  # bytes needed to convert a tile


def flat_mode(image: Image.Image, channels: int) -> str:
    """The mode of `flat(image, …, channels)`: L or RGB. Grey stays L; it is expanded to RGB after resizing."""
    plain = image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;16")
    deep = image.mode not in ("1", "L")  # converting to 8 bits drops the transparent level
    return "L" if channels == 1 or (plain and (deep or not image.has_transparency_data)) else "RGB"


def flat(image: Image.Image, stored: str, channels: int) -> Image.Image:
    """Convert `image` to 8-bit grey or RGB, on white where it is transparent; `stored` is its file format.

    Returns the same object if nothing has to be converted.
    """
    mode, levels = flat_mode(image, channels), _levels_of(image, stored)
    if image.mode == mode and not image.has_transparency_data:
        return image
    if image.width * image.height <= TILE:
        return _converted(image, mode, levels)
    whole = Image.new(mode, image.size)
    for box in tiles(image.size):
        whole.paste(_converted(image.crop(box), mode, levels), box[:2])
    return whole


def tiles(size: tuple[int, int], area: int = TILE, multiple: tuple[int, int] = (1, 1)) -> Iterator[Box]:
    """Boxes of about `area` pixels that cover an image; their sides are multiples of `multiple`, except at the edge."""
    (width, height), (columns, rows) = size, multiple
    wide = min(width, max(1, area // rows // columns) * columns)
    tall = max(1, area // wide // rows) * rows
    for top in range(0, height, tall):
        for left in range(0, width, wide):
            yield left, top, min(width, left + wide), min(height, top + tall)


def _converted(image: Image.Image, mode: str, levels: Levels | None) -> Image.Image:
    if levels is not None:
        image = Image.fromarray(levels(np.asarray(image)))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        image = white
    return image if image.mode == mode else image.convert(mode)


def _levels_of(image: Image.Image, stored: str) -> Levels | None:
    """The conversion of more than 8 bits to 8; None if there are no more."""
    if image.mode.startswith("I;16") or (image.mode == "I" and stored == "PNG"):
        return _scaled(0.0, 65535.0)
    return _fit_range(image) if image.mode in ("I", "F") else None


def _fit_range(image: Image.Image) -> Levels:
    """Scale from the first usual range that holds all values, else from minimum to maximum."""
    low, high = _range(image)
    usual = (1, 255, 65535) if image.mode == "F" else (255, 65535)
    top = next((end for end in usual if low >= 0 and high <= end), None)
    return _scaled(0.0, float(top), low, high) if top else _scaled(low, (high - low) or 1.0, low, high)


def _range(image: Image.Image) -> tuple[float, float]:
    """The smallest and the largest finite value; (0, 0) if there is none."""
    low, high = np.inf, -np.inf
    for box in tiles(image.size):
        values = np.asarray(image.crop(box))
        if len(finite := values[np.isfinite(values)]):
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    return (low, high) if low <= high else (0.0, 0.0)


def _scaled(start: float, span: float, low: float = 0.0, high: float = 0.0) -> Levels:
    """Map start..start + span to 0..255, NaN and -inf to `low`, and +inf to `high`."""

    def levels(values: NDArray[np.generic]) -> NDArray[np.uint8]:
        shades = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low)
        return ((shades - start) * 255 / span).round().astype(np.uint8)

    return levels
