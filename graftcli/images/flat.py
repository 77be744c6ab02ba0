"""Decoded images of any Pillow mode -> 8 bit grey or RGB, tile by tile: a large one in float64 fills a machine."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Box = tuple[int, int, int, int]  # left, top, right, bottom
Levels = Callable[[NDArray[Any]], NDArray[np.uint8]]

TILE = 2**20  # pixels that are converted at once
WORKING = 48 * TILE  # bytes that converting a tile takes


def flat_mode(image: Image.Image, channels: int) -> str:
    """The mode of `flat(image, …, channels)`: L or RGB. Grey stays L, and is expanded to RGB once it is resized."""
    plain = image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;16")
    deep = image.mode not in ("1", "L")  # what becomes 8 bit loses its transparent level
    return "L" if channels == 1 or (plain and (deep or not image.has_transparency_data)) else "RGB"


def flat(image: Image.Image, stored: str, channels: int) -> Image.Image:
    """`image` as 8 bit grey or RGB, on white where it is transparent; `stored` is the format of its file.

    The image itself where it is that already.
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


def tiles(size: tuple[int, int], most: int = TILE, multiple: tuple[int, int] = (1, 1)) -> Iterator[Box]:
    """Boxes that cover an image, of about `most` pixels; their sides are multiples of `multiple`, except at the rim."""
    (width, height), (columns, rows) = size, multiple
    wide = min(width, max(1, most // rows // columns) * columns)
    tall = max(1, most // wide // rows) * rows
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
    """How more than 8 bits become 8; None where there are no more."""
    if image.mode.startswith("I;16") or (image.mode == "I" and stored == "PNG"):
        return _scaled(0.0, 65535.0)
    return _fitting(image) if image.mode in ("I", "F") else None


def _fitting(image: Image.Image) -> Levels:
    """Levels of the first usual range that holds all values, else from the least to the greatest."""
    low, high = _range(image)
    usual = (1, 255, 65535) if image.mode == "F" else (255, 65535)
    top = next((end for end in usual if low >= 0 and high <= end), None)
    return _scaled(0.0, float(top), low, high) if top else _scaled(low, (high - low) or 1.0, low, high)


def _range(image: Image.Image) -> tuple[float, float]:
    """The least and the greatest finite value; (0, 0) where there is none."""
    low, high = np.inf, -np.inf
    for box in tiles(image.size):
        values = np.asarray(image.crop(box))
        if len(real := values[np.isfinite(values)]):
            low, high = min(low, float(real.min())), max(high, float(real.max()))
    return (low, high) if low <= high else (0.0, 0.0)


def _scaled(start: float, span: float, low: float = 0.0, high: float = 0.0) -> Levels:
    """start..start + span as 0..255; what is not finite is `low` or `high`."""

    def levels(values: NDArray[Any]) -> NDArray[np.uint8]:
        shades = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low)
        return ((shades - start) * 255 / span).round().astype(np.uint8)

    return levels
