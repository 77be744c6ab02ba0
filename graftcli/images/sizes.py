"""The sizes of the images in a source, from their headers."""

from contextlib import closing
from pathlib import Path

from PIL import Image

from graftcli.images.decoding import Broken, File, process_files
from graftcli.images.file_formats import FORMATS
from graftcli.images.headers import TimedStream, may_be_rotated
from graftcli.images.pixels import open_image
from graftcli.images.sources import open_source

Size = tuple[int, int]  # height, width


def two_sizes(source: Path, jobs: int | None = None) -> tuple[Size, ...]:
    """The first two different sizes of the images in a source: one if all are equal, none if all are broken."""
    sizes: dict[Size, None] = {}
    with open_source(source) as opened, closing(process_files(opened.entries, _upright_size, jobs)) as results:
        for result in results:
            if not isinstance(result, Broken):
                sizes[result] = None
            if len(sizes) == 2:
                break
    return tuple(sizes)


def _upright_size(file: File) -> Size:
    """The size of an image as decoded; only an image that may be rotated is decoded."""
    with Image.open(TimedStream(file.data, file.allowance), formats=tuple(FORMATS)) as image:
        if image.width == image.height or not may_be_rotated(image, file.data):
            return image.height, image.width
    with open_image(file.data, channels=3, allowance=file.allowance) as decoded:
        return decoded.stored.height, decoded.stored.width
