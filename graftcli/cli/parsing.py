"""Parse the values of options: image sizes, and numbers per channel."""

import re
from typing import NamedTuple

from graftcli.cli.limits import MAX_IMAGE_SIZE
from graftcli.errors import UsageError


class ImgSize(NamedTuple):
    """Height and width of the input images."""

    height: int
    width: int


def parse_img_size(text: str) -> ImgSize:
    """Parse `224` (square), or height and width as `224x160` or `224,160`."""
    match = re.fullmatch(r"([0-9]{1,9})(?:[x,]([0-9]{1,9}))?", text.strip().lower())
    if not match:
        raise UsageError(
            f"--img-size {text[:60]!r} is not an image size.",
            "Give one number for a square, such as 224, or height and width, such as 224x160 or 224,160.",
        )
    height = int(match[1])
    size = ImgSize(height, int(match[2] or height))
    if not 1 <= min(size) <= max(size) <= MAX_IMAGE_SIZE:
        raise UsageError(
            f"--img-size {text.strip()} is out of range.", f"Give a height and a width from 1 to {MAX_IMAGE_SIZE:,}."
        )
    return size


class Channels(tuple[float, ...]):
    """One number per channel; a subclass, because Typer parses a plain tuple as several arguments."""


def numbers(flag: str, text: str) -> Channels:
    """Parse comma-separated numbers, such as `0.485,0.456,0.406`."""
    try:
        return Channels(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"{flag} {text!r} is not a list of numbers.", f"Give one per channel, such as {flag} 0.485,0.456,0.406."
        ) from None
